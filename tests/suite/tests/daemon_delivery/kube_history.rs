//! The addresses of Services over time, from the API server's own history: no two Services had one at once, and none was taken away.

use std::collections::BTreeMap;

use serde_json::Value;

/// What is wrong with this history of events, as a watch of all Services tells it. They share nothing.
pub(crate) fn wrongs(events: &[Value]) -> Vec<String> {
    let mut held: BTreeMap<String, String> = BTreeMap::new();
    let mut wrongs = Vec::new();
    for event in events {
        let object = &event["object"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = format!("{}/{}", text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let now = object["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().filter(|_| event["type"] != "DELETED");
        let before = if event["type"] == "DELETED" {
            drop(held.remove(&name));
            None
        } else {
            held.get(&name).cloned()
        };
        match (before, now) {
            (Some(before), now) if now != Some(before.as_str()) => {
                wrongs.push(format!("{name}: {before} became {now:?}"))
            }
            (_, Some(now)) => {
                let other = held.iter().find(|(other, ip)| **other != name && *ip == now);
                if let Some((other, _)) = other {
                    wrongs.push(format!("{now} of {other} was given to {name}"));
                }
                let _before = held.insert(name, now.to_owned());
            }
            (_, None) => {}
        }
    }
    wrongs
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_planted_double_and_a_planted_change_are_found() {
        let event = |kind: &str, name: &str, ip: Option<&str>| {
            let ingress = ip.map(|ip| json!([{"ip": ip}]));
            json!({"type": kind, "object": {"metadata": {"namespace": "shop", "name": name},
                "status": {"loadBalancer": {"ingress": ingress}}}})
        };
        let good = [
            event("ADDED", "a", None),
            event("MODIFIED", "a", Some("192.0.2.1")),
            event("ADDED", "b", Some("192.0.2.2")),
            event("MODIFIED", "a", Some("192.0.2.1")),
            event("DELETED", "b", Some("192.0.2.2")),
            event("MODIFIED", "c", Some("192.0.2.2")),
        ];
        assert_eq!(wrongs(&good), [""; 0]);
        let double = [&good[..3], &[event("MODIFIED", "c", Some("192.0.2.2"))]].concat();
        assert_eq!(wrongs(&double), ["192.0.2.2 of shop/b was given to shop/c"]);
        let change = [&good[..2], &[event("MODIFIED", "a", Some("192.0.2.9"))]].concat();
        assert_eq!(wrongs(&change), ["shop/a: 192.0.2.1 became Some(\"192.0.2.9\")"]);
        assert_eq!(wrongs(&[&good[..2], &[event("MODIFIED", "a", None)]].concat()).len(), 1);
    }
}
