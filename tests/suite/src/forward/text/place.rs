//! Flows and places as text.

use anyhow::{Context, Result};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    FLOW_ASKED, FLOW_CLOSING, FLOW_FIN_CLIENT, FLOW_FIN_ENDPOINT, FLOW_REMOTE, FLOW_VIA_INGRESS, Flow, FlowKey, Half,
};

use super::words::{Words, number, socket, socket_protocol};
use crate::forward::model::Clock;

/// `own`, `a`, `unknown`, or a number.
pub(crate) fn namespace(word: &str, a: i32) -> Result<i32> {
    Ok(match word {
        "own" => -1,
        "unknown" => -2,
        "a" => a,
        other => number::<u32>(other)?.cast_signed(),
    })
}

pub(crate) fn place(word: &str) -> Result<(VipKey, u16)> {
    socket(word)
}

/// `CLIENT:PORT ENDPOINT:PORT/PROTOCOL`.
pub(crate) fn flow_key(w: &mut Words<'_>) -> Result<FlowKey> {
    let (client, client_port) = socket(w.next()?)?;
    let (endpoint, endpoint_port, protocol) = socket_protocol(w.next()?)?;
    Ok(FlowKey { client, endpoint, client_port, endpoint_port, protocol, pad: [0; 3] })
}

pub(crate) fn flow(w: &mut Words<'_>, now: Clock) -> Result<(FlowKey, Flow)> {
    let key = flow_key(w)?;
    let (vip, vip_port) = socket(w.value("vip").context("`vip ADDRESS:PORT`")?)?;
    let mut flags = 0;
    for (name, bit) in [
        ("fin-client", FLOW_FIN_CLIENT),
        ("fin-endpoint", FLOW_FIN_ENDPOINT),
        ("closing", FLOW_CLOSING),
        ("via", FLOW_VIA_INGRESS),
        ("remote", FLOW_REMOTE),
        ("asked", FLOW_ASKED),
    ] {
        flags |= if w.flag(name) { bit } else { 0 };
    }
    let age: u32 = w.value_number("age")?.unwrap_or(0);
    let value = Flow {
        vip,
        vip_port,
        service: w.value_number("service")?.unwrap_or(1),
        endpoint: w.value_number("endpoint")?.unwrap_or(1),
        ingress: w.value_number("ingress")?.unwrap_or(1),
        seen_s: now.seconds.saturating_sub(age),
        flags,
        site: w.value_number("site")?.unwrap_or(0),
        pad: 0,
    };
    Ok((key, value))
}

pub(crate) fn half(w: &mut Words<'_>) -> Result<(FlowKey, Half)> {
    let key = flow_key(w)?;
    let (vip, vip_port) = socket(w.value("vip").context("`vip ADDRESS:PORT`")?)?;
    let value = Half {
        vip,
        vip_port,
        service: w.value_number("service")?.unwrap_or(1),
        endpoint: w.value_number("endpoint")?.unwrap_or(1),
        ingress: w.value_number("ingress")?.unwrap_or(1),
    };
    Ok((key, value))
}
