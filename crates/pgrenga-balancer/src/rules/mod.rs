//! Who may connect from where, as in `pg_hba.conf`: the first rule that fits
//! decides. Pure.

mod visitor;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::wire::{Report, sqlstate};
pub(crate) use visitor::Visitor;

/// In order. Without any, everybody passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

/// What it fits, and what is done then. An empty list fits all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether it fits encrypted connections only.
    pub needs_tls: bool,
    /// Databases that are asked for.
    pub databases: Vec<String>,
    /// Roles that are asked for.
    pub users: Vec<String>,
    /// Where clients come from.
    pub addresses: Vec<IpNet>,
    /// What is done.
    pub method: Method,
}

/// What is done with a client whom a rule fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// It proves itself to the server.
    Pass,
    /// It has proven itself by a certificate, whose common name is the role's, or one that may take it by this map.
    Cert(Option<Arc<NameMap>>),
    /// It is turned away.
    Reject,
}

/// Which roles a certificate's common name may take.
pub type NameMap = BTreeMap<String, Vec<String>>;

/// Who makes sure of a client that is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voucher {
    /// The server, in whatever way it asks for.
    Server,
    /// The balancer, which has looked at the client's certificate.
    Balancer,
}

impl Rules {
    /// What becomes of this client.
    pub(crate) fn decide(&self, visitor: &Visitor<'_>) -> Result<Voucher, Report> {
        if self.0.is_empty() {
            return Ok(Voucher::Server);
        }
        let refuse = |message: String| Report::fatal(sqlstate::INVALID_AUTHORIZATION, message);
        match self.0.iter().find(|rule| rule.fits(visitor)).map(|rule| &rule.method) {
            None => Err(refuse(format!("the balancer has no rule for {visitor}"))
                .hint("The first of the [[rules]] in its configuration that fits decides.")),
            Some(Method::Reject) => Err(refuse(format!("the balancer rejects {visitor}"))),
            Some(Method::Pass) => Ok(Voucher::Server),
            Some(Method::Cert(map)) => match visitor.common_name {
                None => Err(refuse("connection requires a valid client certificate".to_owned())),
                Some(name) if may_be(name, visitor.user, map.as_deref()) => Ok(Voucher::Balancer),
                // As with PostgreSQL, what would have been right is for the log only.
                Some(name) => {
                    tracing::info!(name, user = %visitor.user_text(), "a certificate that is not this role's");
                    Err(refuse(format!("certificate authentication failed for user \"{}\"", visitor.user_text())))
                }
            },
        }
    }

    /// Whether certificates are asked for anywhere.
    #[must_use]
    pub fn need_certificates(&self) -> bool {
        self.0.iter().any(|rule| matches!(rule.method, Method::Cert(_)))
    }
}

impl Rule {
    fn fits(&self, visitor: &Visitor<'_>) -> bool {
        let needs_tls = self.needs_tls || matches!(self.method, Method::Cert(_));
        let names = |names: &[String], name: &[u8]| {
            names.is_empty() || names.iter().any(|one| visitor::truncated(one.as_bytes()) == name)
        };
        (visitor.is_encrypted || !needs_tls)
            && names(&self.databases, visitor.database)
            && names(&self.users, visitor.user)
            && (self.addresses.is_empty() || self.addresses.iter().any(|net| net.contains(&visitor.address)))
    }
}

/// Whether a certificate with this common name may take the role.
fn may_be(name: &str, role: &[u8], map: Option<&NameMap>) -> bool {
    match map {
        None => name.as_bytes() == role,
        Some(map) => map.get(name).is_some_and(|roles| roles.iter().any(|one| one.as_bytes() == role)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(method: Method) -> Rule {
        Rule { needs_tls: false, databases: vec![], users: vec![], addresses: vec![], method }
    }

    fn visitor(user: &'static str, database: &'static str, address: &str) -> Visitor<'static> {
        Visitor {
            is_encrypted: false,
            common_name: None,
            address: address.parse().unwrap(),
            user: user.as_bytes(),
            database: database.as_bytes(),
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn refusal(rules: &Rules, visitor: &Visitor<'_>) -> String {
        let report = rules.decide(visitor).unwrap_err();
        assert_eq!(report.sqlstate(), "28000");
        report.message().to_owned()
    }

    #[test]
    fn without_rules_the_server_decides() {
        assert_eq!(Rules::default().decide(&visitor("a", "b", "1.2.3.4")), Ok(Voucher::Server));
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = Rules(vec![
            Rule { users: names(&["mallory"]), ..rule(Method::Reject) },
            Rule { databases: names(&["shop"]), addresses: vec!["10.0.0.0/8".parse().unwrap()], ..rule(Method::Pass) },
            Rule { needs_tls: true, ..rule(Method::Pass) },
        ]);
        assert_eq!(rules.decide(&visitor("app", "shop", "10.1.2.3")), Ok(Voucher::Server));
        assert!(refusal(&rules, &visitor("mallory", "shop", "10.1.2.3")).contains("rejects"));
        for (user, database, address) in [("app", "other", "10.1.2.3"), ("app", "shop", "11.1.2.3")] {
            let said = refusal(&rules, &visitor(user, database, address));
            let expected = format!("user \"{user}\" to database \"{database}\" from {address}, without encryption");
            assert!(said.contains(&expected), "{said}");
            let encrypted = Visitor { is_encrypted: true, ..visitor(user, database, address) };
            assert_eq!(rules.decide(&encrypted), Ok(Voucher::Server));
        }
    }

    #[test]
    fn a_certificate_is_its_roles_only() {
        let map = NameMap::from([("alice".to_owned(), names(&["app", "report"]))]);
        let own = Rules(vec![rule(Method::Cert(None)), rule(Method::Pass)]);
        let mapped = Rules(vec![rule(Method::Cert(Some(Arc::new(map)))), rule(Method::Pass)]);
        let shown = |common_name, user| Visitor { is_encrypted: true, common_name, ..visitor(user, "shop", "::1") };
        assert_eq!(own.decide(&shown(Some("alice"), "alice")), Ok(Voucher::Balancer));
        assert_eq!(mapped.decide(&shown(Some("alice"), "report")), Ok(Voucher::Balancer));
        for (rules, name, user) in
            [(&own, "alice", "app"), (&mapped, "alice", "alice"), (&mapped, "bob", "app"), (&own, "", "app")]
        {
            assert!(refusal(rules, &shown(Some(name), user)).contains("certificate authentication failed"));
        }
        assert!(refusal(&own, &shown(None, "alice")).contains("requires a valid client certificate"));
        assert_eq!(
            own.decide(&visitor("alice", "shop", "::1")),
            Ok(Voucher::Server),
            "it does not fit without encryption"
        );
    }

    #[test]
    fn a_name_that_the_server_would_cut_is_cut() {
        let long = "x".repeat(70);
        let rules = Rules(vec![Rule { users: vec!["x".repeat(63)], ..rule(Method::Reject) }, rule(Method::Pass)]);
        let packet = crate::wire::startup(&[("user", &long)]);
        let visitor = Visitor::new(&packet, "1.2.3.4".parse().unwrap(), None, false);
        assert!(refusal(&rules, &visitor).contains("rejects"));
    }
}
