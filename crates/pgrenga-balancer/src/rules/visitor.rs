//! What is known of a client when it is decided about.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use crate::wire::parameters;

/// PostgreSQL's `NAMEDATALEN`, less the zero at the end.
const NAME_BYTES_MAX: usize = 63;

/// A client that asks for a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visitor<'a> {
    pub(crate) is_encrypted: bool,
    /// Of the certificate that it has shown, which one that we believe vouches for.
    pub(crate) common_name: Option<&'a str>,
    pub(crate) address: IpAddr,
    pub(crate) user: &'a [u8],
    pub(crate) database: &'a [u8],
}

impl<'a> Visitor<'a> {
    /// Reads its startup packet the way the server will (`ProcessStartupPacket` in `postmaster.c`): the last of several
    /// values counts, names are cut, and who names no database means the one that is called as it is itself.
    pub(crate) fn new(startup: &'a [u8], address: IpAddr, common_name: Option<&'a str>, is_encrypted: bool) -> Self {
        let (mut user, mut database) = (&b""[..], &b""[..]);
        for (name, value) in parameters(startup) {
            match name {
                b"user" => user = value,
                b"database" => database = value,
                _ => {}
            }
        }
        let database = if database.is_empty() { user } else { database };
        // On a socket for both families, clients of the older one have longer addresses.
        let address = address.to_canonical();
        Self { is_encrypted, common_name, address, user: truncated(user), database: truncated(database) }
    }

    pub(crate) fn user_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.user)
    }
}

impl fmt::Display for Visitor<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, database) = (self.user_text(), String::from_utf8_lossy(self.database));
        let encryption = if self.is_encrypted { "encrypted" } else { "without encryption" };
        write!(formatter, "user \"{user}\" to database \"{database}\" from {}, {encryption}", self.address)
    }
}

/// A name as the server sees it.
pub(super) fn truncated(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::startup;

    #[test]
    fn a_startup_packet_is_read_as_the_server_reads_it() {
        let address = "::ffff:10.0.0.1".parse().unwrap();
        let packet = startup(&[("user", "a"), ("options", "user"), ("user", "b"), ("application_name", "database")]);
        let visitor = Visitor::new(&packet, address, None, false);
        assert_eq!((visitor.user, visitor.database), (&b"b"[..], &b"b"[..]));
        assert_eq!(visitor.address, IpAddr::from([10, 0, 0, 1]));
        let packet = startup(&[("database", "d"), ("user", "b")]);
        assert_eq!(Visitor::new(&packet, address, None, false).database, b"d");
    }
}
