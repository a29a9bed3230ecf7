//! What a role allows, and what was asked for: nothing may be denied, and nothing allowed in vain.

use std::collections::BTreeSet;

use serde_json::Value;

/// A verb on a resource of a group.
type Right = (String, String, String);

/// Every right of the (cluster) roles of these manifests.
pub(crate) fn rights(manifests: &[Value]) -> BTreeSet<Right> {
    let rules = manifests.iter().flat_map(|object| object["rules"].as_array().into_iter().flatten());
    let mut rights = BTreeSet::new();
    for rule in rules {
        let all = |key: &str| rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
        for group in all("apiGroups") {
            for resource in all("resources") {
                rights.extend(
                    all("verbs").iter().map(|verb| (group.to_owned(), resource.to_owned(), (*verb).to_owned())),
                );
            }
        }
    }
    rights
}

fn right(event: &Value) -> Option<Right> {
    let about = &event["objectRef"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let resource = text(&about["resource"])?;
    let resource = match about["subresource"].as_str() {
        Some(part) => format!("{resource}/{part}"),
        None => resource,
    };
    Some((text(&about["apiGroup"]).unwrap_or_default(), resource, text(&event["verb"])?))
}

/// What this user asked for in vain.
pub(crate) fn denied(events: &[Value], user: &str) -> Vec<String> {
    let mine = events.iter().filter(|event| event["user"]["username"] == user);
    let denied = mine.filter(|event| event["annotations"]["authorization.k8s.io/decision"] != "allow");
    denied.map(|event| format!("{} {}", event["verb"], event["requestURI"])).collect()
}

/// Rights that this user made no use of.
pub(crate) fn unused(rights: &BTreeSet<Right>, events: &[Value], user: &str) -> BTreeSet<Right> {
    let used = events.iter().filter(|event| event["user"]["username"] == user).filter_map(right);
    let used: BTreeSet<Right> = used.collect();
    rights.difference(&used).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_right_in_vain_and_a_denied_request_are_found() {
        let role = json!({"kind": "Role", "rules": [
            {"apiGroups": [""], "resources": ["services", "services/status"], "verbs": ["list", "patch"]}]});
        let event = |verb: &str, part: Option<&str>, decision: &str| {
            json!({"verb": verb, "stage": "ResponseComplete", "user": {"username": "u"}, "requestURI": "/x",
                "objectRef": {"resource": "services", "subresource": part},
                "annotations": {"authorization.k8s.io/decision": decision}})
        };
        let events =
            [event("list", None, "allow"), event("patch", Some("status"), "allow"), event("get", None, "forbid")];
        let unused = unused(&rights(&[role]), &events, "u");
        let named: Vec<String> = unused.iter().map(|(_, resource, verb)| format!("{verb} {resource}")).collect();
        assert_eq!(named, ["patch services", "list services/status"]);
        assert_eq!(denied(&events, "u"), ["\"get\" \"/x\""]);
        assert!(denied(&events, "v").is_empty());
    }
}
