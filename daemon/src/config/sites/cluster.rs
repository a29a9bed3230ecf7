//! What Sites of the cluster add to the section `sites`: each is read like a site of the file, and by the same rules. The file wins.
//!
//! Maps stand there where the file has lists of names, so that two writers may change one site. They are read in the order of the names,
//! which is the same everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde_json::{Map as Words, Value, json};

use super::super::Etcd;
use super::super::error::{ConfigError, Pos};
use super::super::read::{At, Errors, Map};
use super::super::schema::{ROOT, SITES};
use super::super::tree::{self, Tree};
use super::super::values;
use super::{Around, Sites, one, read, rules};

/// Kind of the cluster's objects.
const KIND: &str = "Site";
/// Lists of the file that are maps of names in objects.
const NAMED: [&str; 2] = ["relays", "gateways"];

/// An object that cannot be had on this node: its kind, its name, and the field with what is wrong.
type Refused = (&'static str, String, String);

/// The sections `site` and `sites` as they stand in the file, with what stands around them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteFile {
    site: Tree,
    sites: Option<Tree>,
    /// Name of this site.
    own: String,
    this: String,
    base_dir: PathBuf,
    nodes: Vec<(String, u16)>,
    taken: Vec<(u16, &'static str)>,
    authority: Option<Etcd>,
}

/// The file's sites and the cluster's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Joined {
    /// All of them; `None`: nobody says what this site is.
    pub sites: Option<Sites>,
    /// Words of the objects that are in it, by name.
    pub words: BTreeMap<String, String>,
    /// What is not in it as it is.
    pub refused: Vec<Refused>,
}

/// Judges the words of a Site by themselves: no secret is read for it.
///
/// # Errors
/// The field, and what is wrong with it.
pub(in crate::config) fn check_words(name: &str, words: &str) -> Result<(), String> {
    let name =
        values::name(name).map_err(|wrong| format!("metadata.name: {}; use a name of a-z, 0-9 and -", wrong.what))?;
    let mut listed = in_lists(words)?;
    let _unread = listed.as_object_mut().and_then(|words| words.remove("secretFile"));
    let tree = tree::read(&listed.to_string()).map_err(|error| format!("spec: {}", error.wrong))?;
    let errors = Errors::default();
    if let Some(map) = Map::open(&tree, &SITES, "spec".to_owned(), &errors) {
        let name = At { value: name, at: Pos::START, path: "metadata.name".to_owned() };
        let around = Around {
            this: None,
            base_dir: Path::new("/"),
            errors: &errors,
            nodes: vec![],
            taken: vec![],
            cluster: true,
        };
        let site = one(&name, &map, None, &around);
        let _whole = rules::across(&[site], &errors);
    }
    match errors.into_inner().into_iter().next() {
        None => Ok(()),
        Some(error) => Err(said(&error, "spec", words)),
    }
}

impl SiteFile {
    /// The sections; `None` when this node takes part in no sites, or no cluster can add to them.
    pub(in crate::config) fn of(file: &Map<'_>, around: &Around<'_>, authority: Option<Etcd>) -> Option<Self> {
        let site = file.tree("site").filter(|_| around.cluster)?;
        let own = site.entries().iter().find(|(key, _)| key.key() == "name").map(|(_, name)| name.key().to_owned())?;
        Some(Self {
            site: site.clone(),
            sites: file.tree("sites").cloned(),
            own,
            this: around.this?.value.clone(),
            base_dir: around.base_dir.to_owned(),
            nodes: around.nodes.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect(),
            taken: around.taken.clone(),
            authority,
        })
    }

    /// The file's sites (`of_file`) with these objects, by name. An object that cannot be had has the words that it had before, if it is among
    /// `before`.
    pub fn with_cluster(
        &self,
        of_file: Option<&Sites>,
        objects: &BTreeMap<String, String>,
        before: &BTreeMap<String, String>,
    ) -> Joined {
        let mut joined = Joined { sites: of_file.cloned(), ..Joined::default() };
        // This one first: what others are depends on it.
        let own = objects.get_key_value(&self.own);
        for (name, words) in own.into_iter().chain(objects.iter().filter(|(name, _)| **name != self.own)) {
            if self.has(name) {
                let why = "metadata.name: the configuration file has a site of this name, which holds".to_owned();
                joined.refused.push((KIND, name.clone(), why));
                continue;
            }
            if let Err(why) = self.add(name, words, &mut joined) {
                let kept = before.get(name).filter(|kept| *kept != words);
                let holds = kept.is_some_and(|kept| self.add(name, kept, &mut joined).is_ok());
                let why = if holds { format!("{why}; what it said before holds") } else { why };
                joined.refused.push((KIND, name.clone(), why));
            }
        }
        if joined.sites.is_none() && own.is_none() {
            let why = "neither the configuration file nor a Site says what this site is".to_owned();
            joined.refused.push((KIND, self.own.clone(), why));
        }
        if let (Some(sites), Some(of_file)) = (&mut joined.sites, of_file) {
            sites.services.clone_from(&of_file.services);
        }
        joined
    }

    fn has(&self, name: &str) -> bool {
        self.sites.iter().flat_map(Tree::entries).any(|(key, _)| key.key() == name)
    }

    /// Takes one more object in.
    fn add(&self, name: &str, words: &str, joined: &mut Joined) -> Result<(), String> {
        if joined.sites.is_none() && name != self.own {
            return Err(format!("waits: nothing says what site {} is, which is this one", self.own));
        }
        let mut more = joined.words.clone();
        let _none = more.insert(name.to_owned(), words.to_owned());
        let sites = self.read(&more).map_err(|error| said(&error, &format!("sites.{name}"), words))?;
        (joined.sites, joined.words) = (Some(sites), more);
        Ok(())
    }

    /// Both sections, with these objects in the second one.
    fn read(&self, objects: &BTreeMap<String, String>) -> Result<Sites, Box<ConfigError>> {
        let whole = |wrong: String| Box::new(ConfigError::new(Pos::START, "spec", wrong, "see `bascule docs config`"));
        let mut entries = self.sites.as_ref().map(|sites| sites.entries().to_vec()).unwrap_or_default();
        for (name, words) in objects {
            let mut listed = in_lists(words).map_err(&whole)?;
            if *name == self.own {
                // It is there for the others.
                let _unread = listed.as_object_mut().and_then(|words| words.remove("secretFile"));
            }
            entries.push((Tree::text(name), tree::read(&listed.to_string())?));
        }
        let section = |key: &str, tree: Tree| (Tree::text(key), tree);
        let sections = vec![
            section("site", self.site.clone()),
            section("sites", Tree::of(entries)),
            // Read long ago.
            section("forwarding", Tree::of(Vec::new())),
        ];
        let (tree, errors) = (Tree::of(sections), Errors::default());
        let this = At { value: self.this.clone(), at: Pos::START, path: "node".to_owned() };
        let found = {
            let around = Around {
                this: Some(&this),
                base_dir: &self.base_dir,
                errors: &errors,
                nodes: self.nodes.iter().map(|(name, id)| (name.as_str(), *id)).collect(),
                taken: self.taken.clone(),
                cluster: true,
            };
            Map::open(&tree, &ROOT, String::new(), &errors).and_then(|map| read(&map, &around)).flatten()
        };
        match (errors.into_inner().into_iter().next(), found) {
            (Some(error), _) => Err(Box::new(error)),
            (None, Some(sites)) => Ok(Sites { authority: self.authority.clone(), ..sites }),
            (None, None) => Err(whole("it is not complete".to_owned())),
        }
    }
}

/// The words of an object in those of the file: maps of names are lists there. A path of a secret does not leave the folder of the file.
fn in_lists(words: &str) -> Result<Value, String> {
    let mut all: Words<String, Value> = serde_json::from_str(words).map_err(|error| format!("spec: {error}"))?;
    for key in NAMED {
        let Some(members) = all.get_mut(key) else { continue };
        let Value::Object(named) = members.take() else { return Err(format!("spec.{key}: it is no map of names")) };
        // By name, however the server had them.
        let named: BTreeMap<String, Value> = named.into_iter().collect();
        let list = named.into_iter().map(|(name, member)| match member {
            Value::Object(mut member) => {
                let _none = member.insert("name".to_owned(), json!(name));
                Ok(Value::Object(member))
            }
            _ => Err(format!("spec.{key}.{name}: it is no mapping")),
        });
        *members = Value::Array(list.collect::<Result<_, _>>()?);
    }
    if let Some(file) = all.get("secretFile").and_then(Value::as_str) {
        // Whoever may write the object may not choose among all files of the node.
        if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err("spec.secretFile: it is not a relative path that stays in the folder".to_owned());
        }
    }
    Ok(Value::Object(all))
}

/// An error of the file in the words of an object whose `spec` stands at `root`.
fn said(error: &ConfigError, root: &str, words: &str) -> String {
    let mut field = match error.field.strip_prefix(root) {
        Some("") => "metadata.name".to_owned(),
        Some(inner) => format!("spec{inner}"),
        None => error.field.clone(),
    };
    let named: Words<String, Value> = serde_json::from_str(words).unwrap_or_default();
    for key in NAMED {
        let names: BTreeSet<&String> =
            named.get(key).and_then(Value::as_object).into_iter().flat_map(Words::keys).collect();
        for (at, name) in names.into_iter().enumerate() {
            field = field.replace(&format!("spec.{key}[{at}]"), &format!("spec.{key}.{name}"));
        }
    }
    // What is the same elsewhere stands in no line that anybody could look at.
    let wrong = match error.wrong.split_once(" at line ") {
        Some((wrong, _)) => format!("{wrong} of another"),
        None => error.wrong.clone(),
    };
    format!("{field}: {wrong}; {}", error.right)
}

#[cfg(test)]
mod tests {
    use bascule_core::site::SiteId;

    use super::super::super::tests::folder;
    use super::super::super::{Loaded, parse};
    use super::*;

    const FILE: &str = "node: n1\nforwarding: { keyFile: forward.key }\nkubernetes: { cluster: c, services: {} }\nsite: { name: dc-a, domain: sites.example, certificates: pki, relay: n1 }\n";
    const HERE: &str = r#"{"id":1,"relays":{"n1":{"address":"10.0.0.11:7845"}},"gateways":{"n2":{"id":12,"address":"10.0.0.12"},"n1":{"id":11,"address":"10.0.0.11"}},"prefixes":["10.9.0.0/16"],"secretFile":"none"}"#;
    const THERE: &str = r#"{"id":2,"relays":{"m1":{"address":"10.0.1.11:7845"}},"gateways":{"m1":{"id":21,"address":"10.0.1.11"}},"secretFile":"peer.key"}"#;

    fn load(more: &str, dir: &Path) -> Loaded {
        parse(&format!("{FILE}{more}"), "b.yaml", dir, "n1").unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn objects(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, words)| ((*name).to_owned(), (*words).to_owned())).collect()
    }

    fn join(loaded: &Loaded, all: &[(&str, &str)]) -> Joined {
        let file = loaded.site_file.as_ref().expect("the file has a site");
        file.with_cluster(loaded.sites.as_ref(), &objects(all), &BTreeMap::new())
    }

    #[test]
    fn sites_may_all_come_from_the_cluster_the_same_in_each() {
        let dir = folder();
        let loaded = load("", dir.path());
        assert!(loaded.sites.is_none());
        let joined = join(&loaded, &[("dc-a", HERE), ("dc-b", THERE)]);
        assert!(joined.refused.is_empty(), "{:?}", joined.refused);
        let sites = joined.sites.expect("sites");
        assert_eq!((sites.here, sites.rank, sites.all.len()), (SiteId(1), 0, 2));
        let ids = |site: u8| sites.all[&SiteId(site)].gateways.iter().map(|node| node.id).collect::<Vec<_>>();
        assert_eq!((ids(1), ids(2)), (vec![11, 12], vec![21]), "in the order of their names");
        assert_eq!(sites.relay.as_ref().map(|relay| relay.listen.port()), Some(7845));
        assert!(sites.own().keys.is_none() && sites.all[&SiteId(2)].keys.is_some(), "each secret is the pair's");
        assert_eq!(sites.all[&SiteId(2)].secret_file.as_deref(), Some(dir.path().join("peer.key").as_path()));
    }

    #[test]
    fn the_file_wins_and_sites_wait_for_this_one() {
        let dir = folder();
        let waits = join(&load("", dir.path()), &[("dc-b", THERE)]);
        assert!(waits.sites.is_none());
        let names: Vec<&str> = waits.refused.iter().map(|(_, name, _)| name.as_str()).collect();
        assert_eq!(names, ["dc-b", "dc-a"]);
        assert!(waits.refused.iter().all(|(_, _, why)| why.contains("what") && why.contains("site")));
        let here = "sites:\n  dc-a: { id: 1, relays: [{ name: n1, address: '10.0.0.11:7845' }], gateways: [{ name: n1, id: 11, address: 10.0.0.11 }] }\n";
        let loaded = load(here, dir.path());
        let both = join(&loaded, &[("dc-a", HERE), ("dc-b", THERE)]);
        let sites = both.sites.expect("sites");
        assert_eq!((sites.own().gateways.len(), sites.all.len()), (1, 2), "the file's own, and the cluster's other");
        assert!(both.refused.len() == 1 && both.refused[0].1 == "dc-a", "{:?}", both.refused);
        assert_eq!(join(&loaded, &[]).sites, loaded.sites);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_field_and_others_stay() {
        let dir = folder();
        let loaded = load("", dir.path());
        for (words, why) in [
            (THERE.replace("\"id\":2,", "\"id\":64,"), "spec.id: 64 is above 63"),
            (THERE.replace("10.0.1.11:7845", "10.0.1.11"), "spec.relays.m1.address: "),
            (THERE.replace("\"id\":21", "\"id\":4096"), "spec.gateways.m1.id: 4096 is above 4095"),
            (THERE.replace("\"secretFile\"", "\"secret\""), "spec.secret: unknown field"),
            (THERE.replace("peer.key", "/etc/shadow"), "spec.secretFile: it is not a relative path"),
            (THERE.replace("peer.key", "../peer.key"), "spec.secretFile: it is not a relative path"),
            (THERE.replace("\"relays\"", "\"prefixes\":[\"10.9.0.1/16\"],\"relays\""), "spec.prefixes[0]: "),
            ("{}".to_owned(), "spec.id: missing"),
        ] {
            let said = check_words("dc-b", &words).expect_err(&words);
            assert!(said.starts_with(why), "{said}");
        }
        assert!(check_words("DC.b", THERE).expect_err("a bad name").starts_with("metadata.name: "));
        for (words, why) in [
            (THERE.replace("\"id\":2,", "\"id\":1,"), "spec.id: 1 is also the id of another"),
            (THERE.replace("\"id\":21", "\"id\":12"), "spec.gateways.m1.id: 12 is also the id of another"),
            (THERE.replace("peer.key", "none.key"), "spec.secretFile: "),
            (THERE.replace(",\"secretFile\":\"peer.key\"", ""), "spec.secretFile: missing"),
        ] {
            check_words("dc-b", &words).expect("by itself it is right");
            let joined = join(&loaded, &[("dc-a", HERE), ("dc-b", &words)]);
            assert_eq!(joined.sites.map(|sites| sites.all.len()), Some(1), "this site stays");
            assert!(joined.refused[0].2.starts_with(why) && joined.refused[0].1 == "dc-b", "{:?}", joined.refused);
            let (file, all) =
                (loaded.site_file.as_ref().expect("a site"), objects(&[("dc-a", HERE), ("dc-b", &words)]));
            let kept = file.with_cluster(None, &all, &objects(&[("dc-b", THERE)]));
            assert_eq!(kept.sites.map(|sites| sites.all.len()), Some(2), "what it said before");
            assert!(kept.refused[0].2.ends_with("what it said before holds"));
        }
        // A node that is no gateway, and a relay that the object does not have.
        let without = HERE.replace("\"n1\":{\"id\"", "\"n7\":{\"id\"");
        let joined = join(&loaded, &[("dc-a", &without)]);
        assert!(joined.sites.is_none() && joined.refused[0].2.contains("this node, n1, is not in the list"));
        let joined = join(&loaded, &[("dc-a", &HERE.replace("\"n1\":{\"address\"", "\"n2\":{\"address\""))]);
        assert!(joined.refused[0].2.contains("n1 is no relay of dc-a"), "{:?}", joined.refused);
    }
}
