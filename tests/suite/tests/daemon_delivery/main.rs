//! Delivery and encapsulation with real daemons, one on each node: bytes from a client outside to endpoints of every kind, and back.

mod back;
mod frames;
mod handed;
mod kube;
mod kube_allocator;
mod kube_api;
mod kube_asks;
mod kube_audit;
mod kube_bfd;
mod kube_bgp;
mod kube_both;
mod kube_delegate;
mod kube_faults;
mod kube_history;
mod kube_l2;
mod kube_nodes;
mod kube_report;
mod kube_scale;
mod kube_services;
mod kube_sites;
mod mtu;
mod odd;
mod places;
mod talk;
mod tcp;
mod yard;
