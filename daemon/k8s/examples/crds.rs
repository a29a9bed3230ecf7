//! Prints the manifest of the kind with this plural, one of those under deploy/crds, or of all kinds; `cargo xtask docs` writes and compares them.

fn main() -> Result<(), serde_saphyr::ser::Error> {
    let wanted = std::env::args().nth(1);
    let all = bascule_k8s::definitions();
    let chosen = all.iter().filter(|(plural, _)| wanted.as_deref().is_none_or(|wanted| wanted == *plural));
    for (n, (_, definition)) in chosen.enumerate() {
        if n > 0 {
            println!("---");
        }
        println!("# Made by `cargo xtask docs` from daemon/k8s/src/crd.");
        print!("{}", serde_saphyr::to_string(definition)?);
    }
    Ok(())
}
