//! Ids of nodes.

use serde_json::json;

use crate::allocator::{Giver, cluster};
use crate::fake::Fake;

fn path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

fn id(fake: &Fake, name: &str) -> Option<String> {
    let inner = fake.lock();
    let node = inner.objects.get(&path(name)).expect("it is there");
    node["metadata"]["annotations"]["bascule.dev/node-id"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn each_node_gets_the_smallest_id_that_is_free_and_keeps_it() {
    let fake = cluster().await;
    fake.put(&path("n2"), json!({"metadata": {"annotations": {"bascule.dev/node-id": "2"}}}));
    for name in ["n1", "n3", "n4"] {
        fake.put(&path(name), json!({"metadata": {}}));
    }
    let giver = Giver::start(&fake, "n1");
    fake.until("each has one", || ["n1", "n3", "n4"].iter().all(|name| id(&fake, name).is_some())).await;
    let ids: Vec<_> = ["n1", "n2", "n3", "n4"].iter().map(|name| id(&fake, name).unwrap()).collect();
    assert_eq!(ids, ["1", "2", "3", "4"]);
    fake.remove(&path("n3"));
    fake.put(&path("n5"), json!({"metadata": {}}));
    fake.until("it has the free one", || id(&fake, "n5").as_deref() == Some("3")).await;
    assert_eq!(fake.asked("PATCH", "/nodes/"), 4, "one write each");
    giver.stop().await;
}

#[tokio::test]
async fn what_was_written_by_hand_is_said_and_not_repaired() {
    let fake = cluster().await;
    let node = |id: &str| json!({"metadata": {"annotations": {"bascule.dev/node-id": id}}});
    for (name, id) in [("a", "7"), ("b", "7"), ("c", "0x1")] {
        fake.put(&path(name), node(id));
    }
    let mut giver = Giver::start(&fake, "n1");
    giver.until("both are said", |state| state.events == 2).await;
    // Nothing new.
    fake.change(&path("b"), |node| node["metadata"]["labels"] = json!({"x": "y"}));
    fake.put(&path("d"), json!({"metadata": {}}));
    fake.until("the new one has one", || id(&fake, "d").is_some()).await;
    assert_eq!((id(&fake, "a"), id(&fake, "b")), (Some("7".to_owned()), Some("7".to_owned())));
    assert_eq!((fake.asked("PATCH", "/nodes/"), fake.asked("POST", "/events")), (1, 2));
    let messages: Vec<String> = {
        let inner = fake.lock();
        let all = inner.objects.of("/api/v1/events").filter_map(|(_, event)| event["message"].as_str());
        all.map(str::to_owned).collect()
    };
    assert!(messages.iter().any(|said| said.contains("7 is the id of node a as well")), "{messages:?}");
    assert!(messages.iter().any(|said| said.contains("\"0x1\" is no id")), "{messages:?}");
    giver.stop().await;
}
