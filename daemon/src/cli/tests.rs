use serde_json::json;

use super::*;

fn state() -> Value {
    json!({
        "version": "0.1.0", "lastTurnAgeSeconds": 0.02, "node": "n1", "fencePolicy": "required", "fenceReady": true,
        "fenceError": null, "drained": false, "ready": true, "reasons": [],
        "groups": [
            {
                "name": "api", "addresses": ["10.9.0.100", "fe80::200:5eff:fe00:233", "2001:db8::100"],
                "families": ["v4", "v6"], "interface": "eth0", "vrid": 51, "role": "active", "term": 7,
                "owner": "10.9.0.1", "ownerPriority": 254, "sinceSeconds": 93_784.0, "fenceMarginSeconds": 0.2514,
                "priority": 254, "healthy": true, "draining": false, "condition": null,
                "advertsSent": 1, "advertsHeard": 2, "announce": "both", "route": "announce",
            },
            {
                "name": "web", "addresses": ["10.9.0.101"], "families": ["v4"], "interface": "eth0", "vrid": 52,
                "role": "backup", "term": 2, "owner": "10.9.0.2", "ownerPriority": 206, "sinceSeconds": 4.2,
                "fenceMarginSeconds": null, "priority": 42, "healthy": false, "draining": false, "condition": null,
                "advertsSent": 0, "advertsHeard": 9, "announce": "l2", "route": "withdraw",
            },
        ],
        "anycast": [{
            "name": "dns", "addresses": ["10.9.0.53", "2001:db8::53"], "healthy": false, "installed": true,
            "route": "withdraw", "sinceSeconds": 61.0, "condition": null,
        }],
        "bgp": { "neighbors": [{ "state": "established", "queue_depth": 2 }, { "state": "active", "queue_depth": 9 }] },
        "gates": [{ "name": "api-local", "up": false, "detail": "connect: refused" }],
    })
}

#[test]
fn status_is_a_table_for_people() {
    let expected = "\
node n1   ready   fence required, armed   bascule 0.1.0

VIP                      GROUP  LINK  VRID  ROLE    OWNER           TERM  SINCE  FENCE    PRIO  HEALTH  CONDITION
10.9.0.100               api    eth0  51    active  this node       7     1d2h   0.251 s  254   ok      -
fe80::200:5eff:fe00:233
2001:db8::100
10.9.0.101               web    eth0  52    backup  10.9.0.2 (206)  2     4.2s   -        42    sick    -

routes   1 of 2 neighbors up, 2 prefixes on their way
VIP            NAME  SCOPE  WANTED    SINCE  HEALTH  CONDITION
10.9.0.100     api   owner  announce  1d2h   ok      -
2001:db8::100
10.9.0.53      dns   all    withdraw  1m01s  sick    -
2001:db8::53

gate api-local   CLOSED   connect: refused
";
    let shown = status::table(&state().to_string()).unwrap();
    assert_eq!(shown, expected, "\n{shown}");
}

#[test]
fn a_lease_has_a_table_of_its_own() {
    let mut state = state();
    state["groups"][1]["vrid"] = 0.into();
    state["groups"][1]["owner"] = Value::Null;
    state["groups"][1]["ownerPriority"] = Value::Null;
    state["groups"][1]["lease"] = json!({
        "store": "kubernetes", "name": "kube-system/plndr-cp-lock", "holder": "n2_bascule", "standing": "fit",
        "storeCondition": "unreachable", "detail": "no answer in time", "secondsLeft": null, "transitions": 8,
        "renewals": 3, "expired": 0, "lost": 0, "takeoverBoundSeconds": 21.016,
    });
    let expected = "\
GROUP  ELECTOR     LEASE                      HOLDER      STORE        STANDING  LEFT  CLAIMS  TAKE-OVER WITHIN
web    kubernetes  kube-system/plndr-cp-lock  n2_bascule  unreachable  fit       -     8       21.0 s
lease of web: no answer in time
";
    let shown = status::table(&state.to_string()).unwrap();
    assert!(shown.contains(expected), "\n{shown}");
    let row = shown.lines().find(|line| line.starts_with("10.9.0.101")).expect("its row");
    assert!(row.contains("eth0  -     backup  n2_bascule"), "{row}");
}

#[test]
fn kept_neighbours_have_a_line_where_there_are_any() {
    let mut state = state();
    let with = |state: &Value| status::table(&state.to_string()).unwrap();
    state["neighbors"] = json!({ "resolved": 0, "unresolved": 0, "missing": 0, "error": null });
    assert!(!with(&state).contains("neighbours"));
    state["neighbors"] = json!({ "resolved": 3, "unresolved": 0, "missing": 0, "error": null });
    assert!(with(&state).contains("\nneighbours   3 of 3 kept\n"));
    state["neighbors"] = json!({ "resolved": 1, "unresolved": 1, "missing": 1, "error": "refused" });
    assert!(with(&state).contains("\nneighbours   2 of 3 kept, 1 without an answer: refused\n"));
}

#[test]
fn status_says_what_is_wrong() {
    let mut state = state();
    state["ready"] = false.into();
    state["reasons"] = json!(["fence: no bpffs", "web: vrid_in_use"]);
    state["fenceReady"] = false.into();
    state["fenceError"] = "no bpffs".into();
    state["lastTurnAgeSeconds"] = 1.5.into();
    state["groups"][0]["fenceMarginSeconds"] = Value::Null;
    state["groups"][1]["role"] = "initialize".into();
    state["groups"][1]["owner"] = Value::Null;
    state["groups"][1]["condition"] = "vrid_in_use".into();
    let shown = status::table(&state.to_string()).unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "node n1   NOT READY   fence required, NOT ARMED: no bpffs   bascule 0.1.0");
    assert_eq!(lines[1..3], ["not ready: fence: no bpffs", "not ready: web: vrid_in_use"]);
    assert_eq!(lines[3], "the event loop last turned 1.5 s ago");
    assert!(lines[6].contains(" none "), "Active without a fence: {}", lines[6]);
    assert!(lines[9].contains("initialize  -") && lines[9].ends_with("vrid_in_use"), "{}", lines[9]);
}

#[test]
fn an_answer_of_another_version_is_one_line() {
    let error = status::table("{\"node\":1}").unwrap_err().to_string();
    assert!(error.starts_with("the daemon's answer is not understood") && error.lines().count() == 1, "{error}");
}

#[test]
fn events_read_like_lines() {
    let role = json!({"seq": 4, "unix_ms": 1_763_816_684_123_u64, "event": "role", "group": "api", "from": "backup",
        "to": "active", "reason": "active_down", "term": 4, "owner": null});
    assert_eq!(
        events::line(&role.to_string()),
        "2025-11-22 13:04:44.123Z  role  api  from=backup reason=active_down term=4 to=active\n"
    );
    let gate =
        json!({"seq": 5, "unix_ms": 0, "event": "gate", "gate": "local", "up": false, "detail": "connect: refused"});
    assert_eq!(
        events::line(&gate.to_string()),
        "1970-01-01 00:00:00.000Z  gate  local  detail=\"connect: refused\" up=false\n"
    );
    assert_eq!(events::line(r#"{"event":"lost","count":7}"#), "lost  count=7\n");
    assert_eq!(events::line("not JSON"), "not JSON\n");
}

#[test]
fn dates_are_right_around_leap_days_and_centuries() {
    let day = |ms: u64| events::line(&json!({"unix_ms": ms, "event": "x"}).to_string())[..10].to_owned();
    // Seconds by `date -u -d ... +%s`.
    let table = [(951_782_399, "2000-02-28"), (951_782_400, "2000-02-29"), (951_868_800, "2000-03-01")];
    let later = [(1_709_164_800, "2024-02-29"), (4_107_542_399, "2100-02-28"), (4_107_542_400, "2100-03-01")];
    for (seconds, wanted) in table.into_iter().chain(later) {
        assert_eq!(day(seconds * 1000), wanted);
    }
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Args::command().debug_assert();
    let page = reference::cli();
    for verb in [
        "check",
        "status",
        "bgp",
        "bgp routes",
        "bgp reset",
        "restart",
        "events",
        "move",
        "drain",
        "clean",
        "render static-pod",
        "render systemd",
        "render masquerade",
        "version",
    ] {
        assert!(page.contains(&format!("## bascule {verb}\n")), "{verb}");
    }
    assert!(!page.contains("## bascule docs"), "hidden");
}
