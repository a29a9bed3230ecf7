//! Prints the manifests under deploy/crds; `cargo xtask docs` writes and compares them.

fn main() -> Result<(), serde_saphyr::ser::Error> {
    println!("# Made by `cargo xtask docs` from daemon/k8s/src/crd.rs.");
    print!("{}", serde_saphyr::to_string(&bascule_k8s::vip_pool())?);
    Ok(())
}
