//! The file itself: whether it can be read, when it has changed, how large it may be, and text that is none.

use proptest::prelude::*;

use super::*;

#[test]
fn load_tells_what_is_wrong_with_the_file_itself() {
    let dir = folder();
    let path = dir.path().join("bascule.yaml");
    let error = |what: &str| {
        let line = load(&path).expect_err(what).to_string();
        line.strip_prefix(&format!("{}:", path.display())).expect("starts with the file").to_owned()
    };
    assert_eq!(error("missing"), "1:1: (file): cannot be read: entity not found; name a readable file");
    std::fs::write(&path, b"node: n1\nvips: \xff\n").expect("written");
    assert_eq!(error("not UTF-8"), "2:7: (file): byte 0xff is not UTF-8; save the file as UTF-8");
    std::fs::write(&path, vec![b'#'; (4 << 20) + 1]).expect("written");
    assert_eq!(error("too large"), "1:1: (file): is larger than 4 MiB; use at most 4 MiB");
    std::fs::write(&path, MINIMAL).expect("written");
    let (status, text) = check(&path);
    assert_eq!(status, 0, "{text}");
    std::fs::write(&path, MINIMAL.replace("51", "0")).expect("written");
    assert_eq!(check(&path), (1, format!("{}:4:11: vips[0].vrid: 0 is below 1; use 1 to 255\n", path.display())));
}

#[tokio::test]
async fn a_file_renamed_over_it_and_a_new_key_are_changes() {
    let dir = folder();
    let (file, key) = (dir.path().join("bascule.yaml"), dir.path().join("peer.key"));
    std::fs::write(&file, MINIMAL).expect("written");
    let mut changes = watch(&file, std::slice::from_ref(&key)).expect("a watch");
    let replace = |path: &Path, text: &str| {
        let new = path.with_extension("new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, path).expect("renamed");
    };
    for round in 0..2 {
        replace(&file, &format!("{MINIMAL}# {round}\n"));
        told(&mut changes).await;
    }
    replace(&key, "ab");
    told(&mut changes).await;
    // As kubelet does with a ConfigMap: the name is a link into a folder that is itself replaced by a link.
    for version in ["v1", "v2", "v3"] {
        std::fs::create_dir(dir.path().join(version)).expect("made");
        std::fs::write(dir.path().join(version).join("mounted.yaml"), version).expect("written");
    }
    let link = |to: &str| {
        std::os::unix::fs::symlink(to, dir.path().join("data.new")).expect("linked");
        std::fs::rename(dir.path().join("data.new"), dir.path().join("data")).expect("renamed");
    };
    link("v1");
    let mounted = dir.path().join("mounted.yaml");
    std::os::unix::fs::symlink("data/mounted.yaml", &mounted).expect("linked");
    let mut changes = watch(&mounted, &[]).expect("a watch");
    for version in ["v2", "v3"] {
        link(version);
        told(&mut changes).await;
    }
}

async fn told(changes: &mut tokio::sync::mpsc::Receiver<()>) {
    let told = tokio::time::timeout(Duration::from_secs(10), changes.recv()).await;
    assert_eq!(told.expect("told within 10 s"), Some(()));
}

#[test]
fn a_large_file_is_read_and_a_larger_one_refused() {
    let file = |vips: u32, addresses: u32| {
        let mut text = "vips:\n".to_owned();
        for vip in 0..vips {
            let list: Vec<String> = (0..addresses).map(|a| format!("10.{}.{}.{a}", vip / 250 + 1, vip % 250)).collect();
            let link = vip / 255;
            text += &format!(
                "  - {{ name: v{vip}, addresses: [{}], vrid: {}, priority: 200, interface: eth{link} }}\n",
                list.join(", "),
                vip % 255 + 1
            );
        }
        text
    };
    let started = std::time::Instant::now();
    assert_eq!(good(&file(1024, 8), Path::new("/")).node.groups.len(), 1024);
    println!("1024 VIPs read in {:?}", started.elapsed());
    let refused =
        |vips, addresses| parse(&file(vips, addresses), "f", Path::new("/"), "n1").expect_err("too large").to_string();
    assert_eq!(refused(1025, 1), "f:2:3: vips: 1025 entries; use at most 1024");
    assert_eq!(
        refused(1024, 9),
        "f:912:5: vips[910]: more than 8192 addresses up to here, link-local ones counted; use at most 8192 on a node"
    );
}

#[test]
fn a_long_list_is_refused_before_it_is_compared() {
    let text = MINIMAL.replace("priority: 200", &format!("nodes: [{}]", ["n1"; 257].join(", ")));
    let errors = parse(&text, "f", Path::new("/"), "n1").expect_err("too long").to_string();
    assert_eq!(errors, "f:5:12: vips[0].nodes: 257 entries; use at most 256");
}

#[test]
fn what_does_not_print_is_escaped() {
    let text = MINIMAL.replace("name: api", "name: \"a\\u2028\\u202e\\n\\e[31mb\"");
    let errors = parse(&text, "f", Path::new("/"), "n1").expect_err("no name").to_string();
    assert_eq!(
        errors,
        "f:2:11: vips[0].name: a\\u{2028}\\u{202e}\\n\\u{1b}[31mb contains \\u{2028}; use 1 to 63 of a-z, 0-9 and -, no - at an end"
    );
}

#[test]
fn a_host_name_that_is_no_node_name_asks_for_one() {
    let errors = parse(MINIMAL, "f", Path::new("/"), "my host").expect_err("no node name").to_string();
    assert_eq!(
        errors,
        "f:1:1: node: missing, and the host name my host contains a space; give the node a name of letters and digits"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn mutated_files_never_panic(edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..8, any::<prop::sample::Index>()), 1..6)) {
        const BITS: [&str; 16] = ["", " ", "\n", ":", "[", "{", "- ", "&a ", "*a", "!!int ", "\"", "999999999999999999999999", "\u{0}", "ü", "~", "<<: "];
        let mut text = include_str!("../full.yaml").to_owned();
        for (at, cut, bit) in edits {
            let mut from = at.index(text.len().max(1)).min(text.len());
            while !text.is_char_boundary(from) { from -= 1; }
            let mut to = (from + cut).min(text.len());
            while !text.is_char_boundary(to) { to += 1; }
            text.replace_range(from..to, BITS[bit.index(BITS.len())]);
        }
        if let Err(errors) = parse(&text, "f", Path::new("/nonexistent"), "n1") {
            for error in errors.iter() {
                prop_assert_eq!(error.to_string().lines().count(), 1);
                prop_assert!(error.at.line >= 1 && error.at.column >= 1);
            }
            prop_assert!(errors.iter().count() > 0);
        }
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}") {
        let _refused = parse(&text, "f", Path::new("/nonexistent"), "n1");
    }
}
