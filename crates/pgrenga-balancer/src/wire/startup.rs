//! The first packet of a connection, which has no type.

/// PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`.
const STARTUP_BYTES_MAX: usize = 10_000;
const LENGTH_BYTES: usize = 4;
const LEAST_BYTES: usize = 8;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const MAJOR: u32 = 3;

/// What names a session in a cancel request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CancelKey {
    /// The server's process.
    pub(crate) pid: u32,
    /// What only its client knows.
    pub(crate) secret: u32,
}

/// What a client begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// It asks for TLS.
    Ssl,
    /// It asks for encryption by GSSAPI.
    Gss,
    /// It wants a session's statement cancelled.
    Cancel(CancelKey),
    /// It wants a session. The packet goes to the server as it is.
    Startup,
    /// A version of the protocol that nobody speaks any more, or not yet.
    UnknownVersion(u16, u16),
}

/// It is not PostgreSQL's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// The packet's length, from its first four bytes.
pub(crate) fn packet_length(head: [u8; LENGTH_BYTES]) -> Result<usize, Unreadable> {
    let length = usize::try_from(u32::from_be_bytes(head)).map_err(|_| Unreadable)?;
    if (LEAST_BYTES..=STARTUP_BYTES_MAX).contains(&length) { Ok(length) } else { Err(Unreadable) }
}

/// What a whole packet says, its length included.
pub(crate) fn packet(bytes: &[u8]) -> Result<Packet, Unreadable> {
    let (_, rest) = take(bytes)?;
    let (code, rest) = take(rest)?;
    match code {
        CANCEL_REQUEST => {
            let (pid, rest) = take(rest)?;
            let (secret, rest) = take(rest)?;
            if rest.is_empty() { Ok(Packet::Cancel(CancelKey { pid, secret })) } else { Err(Unreadable) }
        }
        SSL_REQUEST => Ok(Packet::Ssl),
        GSSENC_REQUEST => Ok(Packet::Gss),
        version if version >> 16 == MAJOR => Ok(Packet::Startup),
        version => Ok(Packet::UnknownVersion((version >> 16) as u16, (version & 0xffff) as u16)),
    }
}

/// The names and values in a whole startup packet, up to its end or to what is none. PostgreSQL refuses what is.
pub(crate) fn parameters(packet: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut texts = packet.get(LEAST_BYTES..).unwrap_or_default().split(|byte| *byte == 0);
    std::iter::from_fn(move || {
        let name = texts.next().filter(|name| !name.is_empty())?;
        Some((name, texts.next()?))
    })
}

/// The packet that asks a server for TLS.
pub(crate) const SSL_REQUEST_PACKET: [u8; 8] = {
    let [a, b, c, d] = SSL_REQUEST.to_be_bytes();
    [0, 0, 0, 8, a, b, c, d]
};

/// The packet that asks a server to cancel.
pub(crate) fn cancel_request(key: CancelKey) -> [u8; 16] {
    let mut packet = [0; 16];
    for (place, word) in packet.chunks_exact_mut(4).zip([16, CANCEL_REQUEST, key.pid, key.secret]) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    packet
}

/// A startup packet that asks for these settings as well. Nothing if it would be too long, or asks for replication, which
/// has no session of that kind.
pub(crate) fn asking_for(packet: &[u8], settings: &[&str]) -> Option<Vec<u8>> {
    let parameters = packet.get(LEAST_BYTES..packet.len().checked_sub(1)?)?;
    if parameters.split(|byte| *byte == 0).step_by(2).any(|name| name == b"replication") {
        return None;
    }
    let mut asking = packet[..packet.len() - 1].to_vec();
    for setting in settings {
        asking.extend(setting.as_bytes());
        asking.extend(b"\0on\0");
    }
    asking.push(0);
    let length = u32::try_from(asking.len()).ok().filter(|_| asking.len() <= STARTUP_BYTES_MAX)?;
    asking[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Some(asking)
}

fn take(bytes: &[u8]) -> Result<(u32, &[u8]), Unreadable> {
    let (word, rest) = bytes.split_first_chunk().ok_or(Unreadable)?;
    Ok((u32::from_be_bytes(*word), rest))
}

/// A startup packet.
#[cfg(test)]
pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let texts: String = parameters.iter().map(|(name, value)| format!("{name}\0{value}\0")).collect();
    let length = u32::try_from(LEAST_BYTES + texts.len() + 1).unwrap();
    [&length.to_be_bytes()[..], &(MAJOR << 16).to_be_bytes(), texts.as_bytes(), b"\0"].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn each_kind_of_packet_is_told_apart() {
        let key = CancelKey { pid: 77, secret: 0xdead_beef };
        assert_eq!(packet(&cancel_request(key)), Ok(Packet::Cancel(key)));
        assert_eq!(packet(&words(&[8, SSL_REQUEST])), Ok(Packet::Ssl));
        assert_eq!(packet(&SSL_REQUEST_PACKET), Ok(Packet::Ssl));
        assert_eq!(packet(&words(&[8, GSSENC_REQUEST])), Ok(Packet::Gss));
        assert_eq!(packet(&words(&[9, 3 << 16, 0])), Ok(Packet::Startup));
        assert_eq!(packet(&words(&[9, (3 << 16) | 2, 0])), Ok(Packet::Startup));
        assert_eq!(packet(&words(&[9, 2 << 16, 0])), Ok(Packet::UnknownVersion(2, 0)));
    }

    #[test]
    fn a_cancel_request_has_just_its_length() {
        assert_eq!(packet(&words(&[12, CANCEL_REQUEST, 1])), Err(Unreadable));
        assert_eq!(packet(&words(&[20, CANCEL_REQUEST, 1, 2, 3])), Err(Unreadable));
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(packet_length([0, 0, 0, 8]), Ok(8));
        for wrong in [[0, 0, 0, 7], [0, 0, 0x27, 0x11], [0xff; 4], *b"GET "] {
            assert_eq!(packet_length(wrong), Err(Unreadable));
        }
    }

    #[test]
    fn parameters_end_where_the_packet_says_so() {
        let all = |packet: &[u8]| parameters(packet).map(|(name, value)| [name, value].concat()).collect::<Vec<_>>();
        assert_eq!(all(&startup(&[("user", "a"), ("options", "")])), [&b"usera"[..], b"options"]);
        let mut packet = startup(&[("user", "a")]);
        packet.extend(b"user\0b\0\0");
        assert_eq!(all(&packet), [b"usera"]);
        assert!(all(&packet[..LEAST_BYTES]).is_empty() && all(b"").is_empty());
    }

    #[test]
    fn settings_are_added_where_there_is_room_and_use_for_them() {
        let packet = |parameters: &str| {
            let length = u32::try_from(LEAST_BYTES + parameters.len() + 1).unwrap();
            [&words(&[length, 3 << 16])[..], parameters.as_bytes(), b"\0"].concat()
        };
        let asking = asking_for(&packet("user\0replication\0"), &["a.b", "c"]).unwrap();
        assert_eq!(asking, packet("user\0replication\0a.b\0on\0c\0on\0"));
        assert_eq!(asking_for(&packet("user\0a\0replication\0database\0"), &["a.b"]), None);
        let full = format!("user\0{}\0", "x".repeat(STARTUP_BYTES_MAX - LEAST_BYTES - 10));
        assert_eq!(asking_for(&packet(&full), &["a.b"]), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = packet(&bytes);
        }
    }
}
