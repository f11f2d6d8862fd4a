//! The sections about who may connect from where.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use pgrenga_balancer::{IpNet, Method, NameMap, Rule, Rules};
use serde::{Deserialize, Serialize};

/// One of the sections `[[rules]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleFile {
    #[serde(default)]
    tls: Encryption,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    databases: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    users: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    method: MethodFile,
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encryption {
    #[default]
    Any,
    Required,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MethodFile {
    Pass,
    Cert,
    Reject,
}

/// The section `[maps]`: by the map's name.
pub(crate) type Maps = BTreeMap<String, NameMap>;

/// Checks them all.
pub(super) fn check(rules: Vec<RuleFile>, maps: Maps, problems: &mut Vec<String>) -> Rules {
    let maps: BTreeMap<_, _> = maps.into_iter().map(|(name, map)| (name, Arc::new(map))).collect();
    let rules = rules.into_iter().zip(1..).map(|(rule, number)| {
        let mut tell = |problem: String| problems.push(format!("rule {number}: {problem}"));
        let addresses = rule.addresses.iter().filter_map(|text| {
            let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.inspect_err(|_| tell(format!("\"{text}\" is neither an address nor ADDRESS/BITS"))).ok()
        });
        let addresses = addresses.collect();
        let mut map = |name: &String| {
            let map = maps.get(name).cloned();
            if map.is_none() {
                tell(format!("there is no [maps.{name}]"));
            }
            map
        };
        let method = match (rule.method, &rule.map) {
            (MethodFile::Cert, name) => Method::Cert(name.as_ref().and_then(&mut map)),
            (method, Some(_)) => {
                tell("a map means something with method \"cert\" only".to_owned());
                plain(method)
            }
            (method, None) => plain(method),
        };
        let needs_tls = rule.tls == Encryption::Required;
        Rule { needs_tls, databases: rule.databases, users: rule.users, addresses, method }
    });
    Rules(rules.collect())
}

fn plain(method: MethodFile) -> Method {
    if method == MethodFile::Pass { Method::Pass } else { Method::Reject }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Sections {
        rules: Vec<RuleFile>,
        #[serde(default)]
        maps: Maps,
    }

    fn parse(text: &str) -> (Rules, Vec<String>) {
        let Sections { rules, maps } = toml::from_str(text).unwrap();
        let mut problems = Vec::new();
        let rules = check(rules, maps, &mut problems);
        (rules, problems)
    }

    #[test]
    fn rules_are_read_in_their_order() {
        let (rules, problems) = parse(
            "[[rules]]\nusers = ['mallory']\nmethod = 'reject'\n\
             [[rules]]\ntls = 'required'\naddresses = ['10.0.0.0/8', '::1']\nmethod = 'cert'\nmap = 'staff'\n\
             [[rules]]\ndatabases = ['shop']\nmethod = 'pass'\n[maps.staff]\nalice = ['app']\n",
        );
        assert!(problems.is_empty(), "{problems:?}");
        let [reject, cert, pass] = &rules.0[..] else { panic!("{rules:?}") };
        assert_eq!(
            (&reject.method, &*reject.users, reject.needs_tls),
            (&Method::Reject, &["mallory".to_owned()][..], false)
        );
        assert!(cert.needs_tls && cert.addresses.len() == 2);
        assert!(matches!(&cert.method, Method::Cert(Some(map)) if map["alice"] == ["app"]));
        assert_eq!((&pass.method, &*pass.databases), (&Method::Pass, &["shop".to_owned()][..]));
    }

    #[test]
    fn what_is_wrong_with_which_rule_is_said() {
        let (_, problems) = parse(
            "[[rules]]\nmethod = 'cert'\nmap = 'staff'\n\
             [[rules]]\naddresses = ['10.0.0.0/33', 'everywhere']\nmethod = 'pass'\nmap = 'staff'\n",
        );
        let expected = [
            "rule 1: there is no [maps.staff]",
            "rule 2: \"10.0.0.0/33\" is neither an address nor ADDRESS/BITS",
            "rule 2: \"everywhere\" is neither an address nor ADDRESS/BITS",
            "rule 2: a map means something with method \"cert\" only",
        ];
        assert_eq!(problems, expected);
        assert!(toml::from_str::<Sections>("[[rules]]\nmethod = 'trust'").is_err());
        assert!(toml::from_str::<Sections>("[[rules]]\nmethod = 'pass'\nuser = 'a'").is_err());
    }
}
