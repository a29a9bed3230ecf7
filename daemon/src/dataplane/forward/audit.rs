//! Looking at what really stands on a device: links of ours that nobody holds, the order of the chain, and facts of the machine that
//! break forwarding without an error anywhere.

use std::fs;
use std::path::Path;

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};

use super::super::link::LinkFacts;
use super::super::{rtnl, sys};
use super::attach::link_pin;
use super::error::ForwardError;
use super::{TC_EGRESS, TC_INGRESS, XDP};
use crate::handle::forward::{Probe, ProbeKind};

/// Longest name the kernel keeps of a program (`BPF_OBJ_NAME_LEN` without its zero).
const NAME_MAX: usize = 15;
/// Names of the fence's programs.
const FENCE_NAMES: [&str; 2] = [super::super::EGRESS, super::super::INGRESS];

fn is(info: &ProgramInfo, name: &str) -> bool {
    info.name_as_str().is_some_and(|found| found == &name[..name.len().min(NAME_MAX)])
}

fn info_of(id: u32) -> Option<ProgramInfo> {
    loaded_programs().flatten().find(|info| info.id() == id)
}

/// The name of a program, for people.
pub(super) fn program_name(id: u32) -> Option<String> {
    Some(info_of(id)?.name_as_str()?.to_owned())
}

/// Detaches links of ours on this device that no pin of ours leads to: a bpffs that was mounted anew hides the pins of the old one, whose
/// links go on and would handle every frame a second time. A device in another namespace is not reached by this question, and a
/// program is known by the id that stands on this very device.
pub(super) fn remove_stale(root: &Path, link: &LinkFacts) -> Result<usize, ForwardError> {
    let mut programs = Vec::new();
    for (direction, name) in [(TcAttachType::Ingress, TC_INGRESS), (TcAttachType::Egress, TC_EGRESS)] {
        // Kernels without tcx refuse the question.
        let chain = SchedClassifier::query_tcx(&link.name, direction).map(|(_, chain)| chain).unwrap_or_default();
        programs.extend(chain.iter().filter(|info| is(info, name)).map(ProgramInfo::id));
    }
    let xdp = rtnl::xdp_program(link.ifindex).map_err(ForwardError::call("asking for the XDP program"))?;
    programs.extend(xdp.filter(|id| info_of(*id).is_some_and(|info| is(&info, XDP))));
    if programs.is_empty() {
        return Ok(0);
    }
    let pinned: Vec<u32> = ["xdp", "ingress", "egress"]
        .iter()
        .filter_map(|place| sys::pinned_link(&link_pin(root, link.ifindex, place)).ok().flatten())
        .map(|link| link.id)
        .collect();
    let mut removed = 0;
    for found in sys::device_links().map_err(ForwardError::call("listing the links"))? {
        let ours = found.ifindex == link.ifindex && programs.contains(&found.program);
        if ours && !pinned.contains(&found.id) {
            let stale = sys::link_by_id(found.id).map_err(ForwardError::call("opening a stale link"))?;
            sys::detach(&stale).map_err(ForwardError::call("detaching a stale link"))?;
            tracing::warn!(link = link.name, id = found.id, "detached a link of a former run that no pin led to");
            removed += 1;
        }
    }
    Ok(removed)
}

/// What is wrong with the chain of one direction, in words; `None`: nothing.
pub(super) fn order(device: &str, direction: TcAttachType) -> Option<String> {
    let (word, ours) = match direction {
        TcAttachType::Egress => ("egress", TC_EGRESS),
        _ => ("ingress", TC_INGRESS),
    };
    let (_, chain) = SchedClassifier::query_tcx(device, direction).ok()?;
    let at = |names: &[&str]| chain.iter().position(|info| names.iter().any(|name| is(info, name)));
    match (at(&FENCE_NAMES), at(&[ours])) {
        (_, None) => Some(format!("tcx: our program is not in the {word} chain")),
        (Some(fence), Some(ours)) if ours < fence => Some(format!(
            "tcx: our {word} program stands before the fence's: what the fence would drop is rewritten first"
        )),
        (fence, Some(ours)) => {
            let foreign = (0..ours).filter(|at| Some(*at) != fence).filter_map(|at| chain[at].name_as_str());
            let foreign: Vec<&str> = foreign.collect();
            let before = format!("tcx: {} before ours may end the {word} chain", foreign.join(", "));
            (!foreign.is_empty()).then_some(before)
        }
    }
}

/// Facts of the machine on which delivery fails. Nothing is written.
pub(super) fn facts(device: &str) -> [Probe; 2] {
    let read = |path: String| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let v4 = |name: &str, key: &str| read(format!("/proc/sys/net/ipv4/conf/{name}/{key}"));
    // Effective is the larger of both (Documentation/networking/ip-sysctl.rst).
    let filter = v4("all", "rp_filter").max(v4(device, "rp_filter"));
    let strict = (filter == Some(1)).then(|| {
        format!(
            "rp_filter of {device} is strict: clients whose way back is another device are dropped by the stack; 2 (loose) or 0 lets \
             them in"
        )
    });
    let off = (read("/proc/sys/net/ipv4/ip_forward".to_owned()) == Some(0)).then(|| {
        "net.ipv4.ip_forward is 0: packets for endpoints outside the host's own namespace are not delivered".to_owned()
    });
    [Probe { probe: ProbeKind::RpFilter, trouble: strict }, Probe { probe: ProbeKind::IpForward, trouble: off }]
}
