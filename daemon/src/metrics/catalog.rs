//! Every metric family: its name, labels, what it says, what it does not prove, and what makes it move.
//!
//! The registry and the reference (docs/reference/metrics.md) are both made from this table, so neither can forget a family.

/// The type of a family, in the words of the exposition format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One family.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
    /// The fault or act that makes it move.
    pub(super) moved_by: &'static str,
}

/// Buckets in seconds, 1 ms to 60 s: a single millisecond matters for the first announcement (bound: 10 ms), the region around 0.3 s
/// for detection at the default interval, and tens of seconds for intervals at the upper end.
pub(super) const SECONDS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0,
    60.0,
];

/// The values of `failover_seconds{phase}`.
pub(super) const PHASES: [&str; 3] = ["detect", "claim", "announce"];
/// The values of `refused_total{channel}`.
pub(super) const CHANNELS: [&str; 2] = ["vrrp", "peer"];
/// The values of `direction`.
pub(super) const DIRECTIONS: [&str; 2] = ["sent", "received"];
/// The values of `forward_endpoint_tcp_total{event}`.
pub(super) const TCP_EVENTS: [&str; 3] = ["syn", "syn_ack", "reset"];
/// The values of `forward_checks_total{result}`.
pub(super) const RESULTS_OF_CHECKS: [&str; 2] = ["passed", "failed"];
/// The values of `forward_witnesses_total{result}`.
pub(super) const RESULTS_OF_WITNESSES: [&str; 2] = ["answered", "silent"];
/// The values of `forward_tables_total{work}`.
pub(super) const TABLE_WORK: [&str; 2] = ["computed", "swapped"];
/// The values of `lease_renewals_total{result}`.
pub(super) const RESULTS_OF_RENEWALS: [&str; 3] = ["extended", "expired", "lost"];
/// The values of `sites_refused_total{plane}`.
pub(super) const PLANES: [&str; 4] = ["state", "nodes", "records", "probes"];
/// The values of `sites_relays_gone_total{how}`.
pub(super) const GONE: [&str; 3] = ["stopped", "closed", "silent"];
/// The values of `neighbors_kept{state}`.
pub(super) const STATES_OF_NEIGHBORS: [&str; 3] = ["resolved", "unresolved", "missing"];
/// The values of `config_reload_total{result}`.
pub(super) const RESULTS: [&str; 2] = ["applied", "refused"];

/// The values of `cluster_allocator_writes_total{result}`.
pub(super) const RESULTS_OF_WRITES: [&str; 3] = ["written", "conflict", "failed"];
/// The values of `cluster_reports_total{result}`.
pub(super) const RESULTS_OF_REPORTS: [&str; 2] = ["written", "failed"];
/// The values of `cluster_source{source}`.
pub(super) const SOURCES: [&str; 3] = ["none", "api", "file"];

macro_rules! families {
    ($($ident:ident = $kind:ident $name:literal [$($label:literal),*], $help:literal, $moved:literal;)*) => {
        $(pub(super) const $ident: Family = Family {
            name: concat!("bascule_", $name),
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
            moved_by: $moved,
        };)*
        /// Every family, in the order of the reference.
        pub(super) const ALL: &[&Family] = &[$(&$ident),*];
    };
}

families! {
    VIP_HELD = Gauge "vip_held" ["vip", "group"],
        "1 while this node is Active for the address, 0 otherwise. The node's own view at the scrape: it does not prove that a client \
         reaches the address, nor that no other node holds it (see rival_claims_total).",
        "any change of owner";
    ELECTION_ROLE = Gauge "election_role" ["group", "role"],
        "1 for the role the group has at the scrape (initialize, backup, active), 0 for the others. A role held for less than a scrape \
         interval is not seen here; vip_transitions_total counts it.",
        "any change of owner";
    TRANSITIONS = Counter "vip_transitions_total" ["group", "reason"],
        "Changes of role, by the reason of the change. Both the way up and the way down count; by itself it does not say that a client \
         lost a packet.",
        "any change of owner";
    FAILOVER = Histogram "failover_seconds" ["phase"],
        "Phases of each take-over by this node: detect = last sign of the former owner to the decision, claim = decision to the \
         addresses on the link, announce = decision to the first announcement handed to the link. It does not include the time a \
         switch or a client needs to follow.",
        "cut, kill or stop of the owner";
    FENCE_MARGIN = Gauge "fence_margin_seconds" ["group"],
        "While Active and fenced: seconds until the kernel closes unless an advert leaves before. 0 while not Active; absent while \
         Active without a fence. Swings between 1.75 and 2.75 advert intervals at rest; a scrape sees one point of it.",
        "a claim, then every advert";
    FENCE_CLOSED = Counter "fence_closed_total" ["group"],
        "Claims that ended because no advert left, or no lease was renewed, before the fence's deadline. Counted when the process sees it: a process that died \
         does not count its own.",
        "SIGSTOP, frozen cgroup or a stall of the owner past the fence";
    FENCE_DROPS = Counter "fence_drops_total" ["reason"],
        "Frames that the fence's programs dropped, by reason, since they were loaded. Drops on a Backup are its normal work and no \
         sign of a fault.",
        "frames for the address while this node may not answer";
    FENCE_HEALED = Counter "fence_healed_total" [],
        "Links on which the fence was missing and was put on again: something else had taken its programs off. Looked for every second, and when filters \
         change. Until then nothing but the node's own state kept it from answering for what it does not own there.",
        "`tc qdisc del dev X clsact`, another tool that takes links or filters for its own";
    GARP_SENT = Counter "garp_sent_total" ["kind"],
        "Gratuitous ARP frames, unsolicited neighbour advertisements and conflict probes handed to the link, by kind. The fence may \
         still drop one, and no switch confirms any.",
        "a claim, a rival, the refresh";
    GARP_REFUSED = Counter "garp_refused_total" ["kind"],
        "Those that the link did not take, by kind: it is down, its queue is full, or the fence dropped them because the claim had ended. None \
         is sent again for that reason alone.",
        "a claim that ends while its frames leave, a link that goes down";
    NEIGHBOR_TABLE_FULL = Counter "neighbor_table_full_total" ["family"],
        "Neighbours that the kernel refused to learn because its table was full (gc_thresh3), since boot and of all namespaces, asked every 10 s. \
         Absent where the kernel does not show it: it does to its first network namespace only. Adverts to the group and announcements do not need the table; unicast \
         peers, BGP, BFD and nodes have entries that it does not cost (neighbors_kept); clients and endpoints do not.",
        "more neighbours than net.ipv4.neigh.default.gc_thresh3";
    NEIGHBORS_KEPT = Gauge "neighbors_kept" ["state"],
        "Neighbours on a link that unicast peers, BFD, BGP and nodes of the data plane are reached through (the peer itself or its gateway), looked at every second: \
         resolved = its entry of the neighbour table is safe from limit and collector and has a MAC, unresolved = safe, but nobody answers, missing = not \
         safe. Says nothing of a peer behind a gateway, nor of clients and endpoints.",
        "peers that come and go, a peer that does not answer";
    NEIGHBOR_REFUSALS = Counter "neighbor_refusals_total" [],
        "Steps that the kernel refused while an entry of the neighbour table was to be kept, tried again every second. A full table is no reason: \
         it does not bind these entries.",
        "a kernel or a sandbox that lets nobody change neighbours";
    RIVAL_CLAIMS = Counter "rival_claims_total" ["group"],
        "Frames (ARP, NDP, VRRP) in which somebody else behaved as owner while this node was Active. Only what reached this node: \
         a rival behind a partition is seen on rejoin.",
        "a planted second owner, rejoined LANs, one-way loss";
    ONE_WAY = Counter "one_way_total" ["group"],
        "Times this node yielded to an Active of lower priority that kept advertising and so cannot hear us. Stays 0 with strictRfc.",
        "adverts lost one way";
    ADDRESS_RESTORED = Counter "address_restored_total" ["group"],
        "Addresses that somebody removed from the link and that were put back. Says nothing about who removed them.",
        "the address deleted by hand on the owner";
    LEASE_CONDITION = Gauge "lease_condition" ["group", "condition"],
        "1 for how the store of the group's lease answers this node (unknown, reachable, throttled, unreachable, denied), 0 for the \
         others. The last request decides; a node that may not own asks seldom.",
        "an API server or etcd that is away, slow or refuses";
    LEASE_LEFT = Gauge "lease_seconds_left" ["group"],
        "While this node owns by a lease: seconds until the fence closes without a further renewal, 0 while it does not own.",
        "a claim, then every renewal";
    LEASE_RENEWALS = Counter "lease_renewals_total" ["group", "result"],
        "What renewing led to: extended, or the end of a claim because no proof came in time (expired) or the lease names somebody else \
         (lost). A renewal that failed and was repeated in time counts once, as extended.",
        "time; a store that is away; somebody who takes the lease";
    LEASE_TRANSITIONS = Gauge "lease_transitions" ["group"],
        "Claims of all nodes, as the last claim of this node counted them (leaseTransitions, or etcd's revision).",
        "a claim by this node";
    ADVERTS_SENT = Counter "adverts_sent_total" ["group"],
        "Adverts handed to the link. The fence drops those of an expired claim (fence_drops_total).",
        "being Active";
    ADVERTS_HEARD = Counter "adverts_heard_total" ["group"],
        "Valid adverts heard from others for this virtual router. One-way loss shows only on the side that does not hear.",
        "another node being Active";
    REFUSED = Counter "refused_total" ["channel"],
        "Packets refused on the VRRP socket or the peer channel: bad checksum, TTL, address list, signature. A forged packet that \
         never reached the socket is not counted.",
        "a malformed or unsigned packet";
    ADVERT_LATENESS = Histogram "advert_lateness_seconds" [],
        "How late each advert left after its deadline, measured before the send. A frame that waits in a queue of the kernel is not \
         seen.",
        "a starved or stopped process";
    LOOP_LAG = Histogram "loop_lag_seconds" [],
        "How late the event loop woke after the deadline it slept for. A loop that never wakes again adds nothing: /live tells that.",
        "a starved or stopped process";
    HEALTH_STATE = Gauge "health_state" ["gate"],
        "1 while the gate is open, 0 while it is closed or was not probed yet. The gate's own view through rise and fall, not the last \
         probe.",
        "the probed service stopped";
    BFD_STATE = Gauge "bfd_state" ["peer"],
        "State of the BFD session at the scrape: 0 admin-down, 1 down, 2 init, 3 up (RFC 5880 section 4.1). This node's view: the peer \
         may be a detection time behind.",
        "a cut link, a stopped peer, one-way loss";
    BFD_TRANSITIONS = Counter "bfd_transitions_total" ["peer", "to"],
        "Changes of state of a BFD session, by the new state. A session that was removed and added again goes on counting.",
        "a cut link, a stopped peer, the handshake";
    BFD_PACKETS = Counter "bfd_packets_total" ["direction"],
        "BFD packets handed to the kernel, and packets of a session that were accepted. What was sent need not have arrived.",
        "every session";
    BFD_DISCARDS = Counter "bfd_discards_total" ["reason"],
        "BFD packets that were discarded, by the rule they broke. no-session at a low rate is a peer that is not configured here.",
        "malformed packets, a wrong TTL, authentication";
    BFD_LATENESS = Histogram "bfd_detection_lateness_seconds" [],
        "How long after its deadline an expired detection time was declared. It does not include the detection time itself.",
        "a starved or stopped process while a peer vanishes";
    ROUTE_WANTED = Gauge "route_wanted" ["group", "vip"],
        "1 while this node wants the host route of the VIP announced over BGP, 0 while it drains or withdraws it. Whether a router has \
         it is bgp_prefixes.",
        "a closed gate, bascule drain, a lost election";
    BGP_SESSION_STATE = Gauge "bgp_session_state" ["peer"],
        "State of the BGP session at the scrape, as in RFC 4273: 1 idle, 2 connect, 3 active, 4 open-sent, 5 open-confirm, \
         6 established. Established does not say that the peer uses our routes.",
        "a stopped peer, a wrong password, BFD down";
    BGP_TRANSITIONS = Counter "bgp_transitions_total" ["peer", "to"],
        "Changes of state of a BGP session, by the new state. A session that was removed and added again goes on counting.",
        "a stopped peer, an operator's reset, a changed neighbor";
    BGP_MESSAGES = Counter "bgp_messages_total" ["peer", "direction", "type"],
        "BGP messages by type: received, or handed to the connection. What was sent need not have arrived.",
        "every session; updates by a VIP that comes or goes";
    BGP_NOTIFICATIONS = Counter "bgp_notifications_total" ["peer", "direction", "code", "subcode"],
        "NOTIFICATIONs by code and subcode (RFC 4271 section 4.5). Past 64 different pairs of a peer the rest are counted as other.",
        "a refused OPEN, an expired hold time, an operator's reset";
    BGP_MALFORMED = Counter "bgp_malformed_updates_total" ["peer"],
        "UPDATEs of the peer for which RFC 7606 asks more than acceptance. Its routes are discarded anyway.",
        "a peer that sends malformed UPDATEs";
    BGP_PREFIXES = Gauge "bgp_prefixes" ["peer", "family", "direction"],
        "Prefixes that the peer was sent and holds of ours, and those it sent us, which are counted and discarded. What it does with \
         ours is its policy.",
        "a VIP that comes or goes, a session that ends";
    BGP_QUEUE_DEPTH = Gauge "bgp_queue_depth" ["peer"],
        "Prefixes that the peer has still to be told of. Bytes that wait in the kernel are not among them.",
        "a peer that reads slowly or not at all";
    BGP_READY_TO_WIRE = Histogram "bgp_ready_to_wire_seconds" [],
        "From the decision of the node to the write of the UPDATE to the kernel, for the oldest route in it. The network and the router's \
         own time come on top.",
        "a gate that opens or closes, a take-over";
    FORWARD_ON = Gauge "forward_on" [],
        "1 while the programs of the data plane steer packets on this node. It does not say on which devices: forward_device.",
        "a missing section or kernel feature, a failed start of the data plane";
    FORWARD_DEVICE = Gauge "forward_device" ["device", "ingress", "egress"],
        "Always 1 for a device that carries the programs; the labels say by which hook. Anything but xdp costs throughput, and a \
         condition says why.",
        "a driver without native XDP, a foreign XDP program";
    FORWARD_PROBE = Gauge "forward_probe" ["device", "probe"],
        "Answers of devices that carry the programs: 1 all is well, 0 a condition says what is not. native_xdp, headroom, tcx: when the \
         programs were put there (headroom: once frames have shown it). tc_order, rp_filter, ip_forward: at the scrape. What is not asked, \
         because another way was configured, is absent.",
        "a driver without native XDP, a foreign program before ours, a strict rp_filter";
    FORWARD_SERVICE_PACKETS = Counter "forward_service_packets_total" ["service"],
        "Packets of clients for the service that came into the site through this node. Whether they reached an endpoint is told by \
         drops and by the endpoints.",
        "traffic";
    FORWARD_SERVICE_BYTES = Counter "forward_service_bytes_total" ["service"],
        "Bytes of these packets, from the IP header on. What the tunnel between nodes adds is not in them.",
        "traffic";
    FORWARD_SERVICE_FLOWS = Counter "forward_service_new_flows_total" ["service"],
        "Flows opened on this node as their home. A SYN that is repeated counts again.",
        "new connections";
    FORWARD_SERVICE_ORPHANS = Counter "forward_service_orphans_total" ["service"],
        "Packets that belong to no flow that any node knew. A scan makes them as well as a lost endpoint.",
        "a killed endpoint, scans";
    FORWARD_ENDPOINT_PACKETS = Counter "forward_endpoint_packets_total" ["service", "endpoint", "direction"],
        "Packets delivered to an endpoint of this node (sent) and its replies (received).",
        "traffic";
    FORWARD_ENDPOINT_BYTES = Counter "forward_endpoint_bytes_total" ["service", "endpoint", "direction"],
        "Bytes of these packets, from the IP header on. What the tunnel between nodes adds is not in them.",
        "traffic";
    FORWARD_ENDPOINT_FLOWS = Counter "forward_endpoint_new_flows_total" ["service", "endpoint"],
        "Flows opened towards an endpoint on this node as their home, TCP and UDP. A SYN that is repeated counts again.",
        "new connections";
    FORWARD_ENDPOINT_TCP = Counter "forward_endpoint_tcp_total" ["service", "endpoint", "event"],
        "SYNs delivered to an endpoint, SYN-ACKs and RSTs it sent. Far more SYNs than SYN-ACKs: it does not answer, whatever its check \
         says.",
        "a hung or overloaded endpoint";
    FORWARD_ENDPOINT_READY = Gauge "forward_endpoint_ready" ["service", "endpoint"],
        "1 while the endpoint takes new connections. This node's view: every node checks every endpoint by itself.",
        "a failing check, a drain";
    FORWARD_DELEGATED = Gauge "forward_endpoints_delegated" [],
        "Endpoints of this node whose new connections the stack delivers (`delegate`), because their network namespace is not found; each \
         port of a Service counts. `bascule services` names them.",
        "a CNI that hides its pods behind a router, a pod whose link is gone while its slice says ready";
    FORWARD_CHECKS = Counter "forward_checks_total" ["service", "endpoint", "result"],
        "Checks of endpoints by this node that passed and failed. A single failure changes nothing: rise and fall decide.",
        "every check";
    FORWARD_NODE_UP = Gauge "forward_node_up" ["node"],
        "1 while the node's daemon is heard, and the node takes new flows. Without a BFD session of its name it is taken to be up.",
        "a node that dies, with BFD";
    FORWARD_NODE_DEAD = Gauge "forward_node_dead" ["node"],
        "1 while packets skip the node: its daemon is not heard and none of its endpoints answers. 0 with forward_node_up 0: its daemon \
         is gone, and its programs forward the flows that it has.",
        "a node that dies, with BFD";
    FORWARD_SITE_USABLE = Gauge "forward_site_usable" ["site"],
        "1 while packets are sent to the other site, by its number: the path from this node is not down, or has carried packets again for a second, and \
         it has a gateway. At 0 it is asked for no flow, and is nobody's home.",
        "a path that is down, or up again";
    FORWARD_WITNESSES = Counter "forward_witnesses_total" ["result"],
        "Endpoints that were asked out of turn whether their node lives, because its daemon was not heard: how many answered within \
         200 ms, how many were silent.",
        "a node that dies, or a daemon that does";
    FORWARD_DROPS = Counter "forward_drops_total" ["reason"],
        "Packets for VIPs, and encapsulation, that the programs dropped, by reason.",
        "forged encapsulation, no ready endpoint, a source outside the ranges, a node without a way";
    FORWARD_VERDICTS = Counter "forward_verdicts_total" ["verdict"],
        "What else became of packets that no drop accounts for. One packet may count more than once on its way.",
        "traffic";
    FORWARD_HOPS = Counter "forward_hops_total" ["nodes"],
        "Accepted encapsulated packets by the number of nodes that had handled them before this one, the first of the chain being 0. \
         More than 0 is the work of rows that moved within the drain time.",
        "a changed set of nodes or endpoints";
    FORWARD_TABLES = Counter "forward_tables_total" ["work"],
        "Tables that were computed, and those that were written and swapped in because they differ.",
        "a changed endpoint, node or configuration";
    FORWARD_HEALED = Counter "forward_healed_total" [],
        "Devices on which a program of forwarding was missing and was put on again, looked for every second: something else had taken it off. Packets of \
         flows that live elsewhere met the node's own stack meanwhile.",
        "`tc qdisc del dev X clsact`, `ip link set dev X xdp off`, another tool that takes links or filters for its own";
    FORWARD_ROWS_MOVED = Counter "forward_rows_moved_total" [],
        "Rows that got another home. Flows of a moved row are found through its previous homes.",
        "a changed endpoint, node or configuration";
    FORWARD_ROWS_FORGOTTEN = Counter "forward_rows_forgotten_total" [],
        "Rows that changed their home a third time within the drain time because they had to. Connections at the oldest home break when \
         they come by such a row; how many there were is not known here.",
        "three endpoints or nodes lost one after the other within the drain time";
    FORWARD_MAP_ENTRIES = Gauge "forward_map_entries" ["map"],
        "Entries of the flow table and the half-open table (estimated where there are many), and rows in use.",
        "connections, a SYN flood, services";
    FORWARD_MAP_CAPACITY = Gauge "forward_map_capacity" ["map"],
        "Entries that fit. A full table of flows forgets the oldest ones, which the sockets of their endpoints still know.",
        "the configuration";
    CLUSTER_SERVICES = Gauge "cluster_services" [],
        "Services of the cluster that are this daemon's, served or not. 0 also before the first intent, and without kubernetes.services.",
        "a Service of type LoadBalancer";
    CLUSTER_VIPS = Gauge "cluster_vips" [],
        "VIPs of these Services, whoever owns them. Services that share an address count it once; one that is refused counts none.",
        "an address in a Service's status";
    CLUSTER_SOURCE = Gauge "cluster_source" ["source"],
        "1 for where the intent in force was read. `file` under `source: api`: the API server has told nothing since the start.",
        "a start without an API server";
    CLUSTER_INTENT_AGE = Gauge "cluster_intent_age_seconds" [],
        "Seconds since the intent in force was made. A quiet cluster makes none: age alone is no fault. Infinite before the first.",
        "time, a change of a Service, slice or Node";
    CLUSTER_PLANS = Counter "cluster_plans_total" [],
        "Plans made of an intent or of another configuration since the start. A plan that changes nothing counts too.",
        "a change of a Service, slice or Node";
    CLUSTER_PLAN_SECONDS = Gauge "cluster_plan_seconds" [],
        "How long the last plan took, in seconds. What others make of it (tables, elections) is not in it.",
        "many changed Services at once";
    CLUSTER_REFUSED = Gauge "cluster_refused" ["reason"],
        "Services, ports or addresses of the cluster that are not served, by reason; those of other classes are `not_ours`.",
        "a foreign class, an address that is taken, more Services than the maps hold";
    CLUSTER_OBJECTS = Gauge "cluster_objects" ["kind", "state"],
        "Objects about announcements and sites, by kind: `in_force`, or `refused` as they are (what they said before, if anything, holds). Why stands in `bascule status`.",
        "an object with a field that makes no sense on this node";
    CLUSTER_MAY_OWN = Gauge "cluster_may_own" [],
        "1 while this node may own VIPs of Services. Why not stands in `bascule status`.",
        "a drain annotation, an exclude label, a condition of the Node";
    ALLOCATOR_LEADS = Gauge "cluster_allocator_leads" [],
        "1 while this node gives addresses to Services and ids to nodes. The sum over a cluster is 1; 0 for up to 17 s after a death, longer \
         without an API server.",
        "a claim of the Lease";
    ALLOCATOR_PENDING = Gauge "cluster_allocator_pending" [],
        "Services of ours that lack an address or a part of it; why stands in their condition. Known to the node that leads, 0 elsewhere.",
        "a Service that no pool serves";
    ALLOCATOR_WRITES = Counter "cluster_allocator_writes_total" ["result"],
        "Writes of statuses and ids. After a conflict or a failure the object is written again when it is still not as it shall be. \
         Renewals of the Lease are not among them.",
        "a new Service, another writer, an API server that answers 5xx";
    ALLOCATOR_EVENTS = Counter "cluster_allocator_events_total" [],
        "Events sent, that say why a Service waits or what is wrong with an id. One that is lost is not sent again.",
        "a Service that no pool serves";
    CLUSTER_REPORTS = Counter "cluster_reports_total" ["result"],
        "Writes of VipStatus objects, which the owner of a shard reports by: one for each takeover, one in 20 s while its list of VIPs changes, \
         one in 5 min when nothing does. One that failed is written again, a minute later at most.",
        "a takeover; a role without `vipstatuses`";
    SITES_LEADS = Gauge "sites_leads" [],
        "1 while the relay of this node leads its site. The sum over a site is 1; 0 for a moment when a relay stops, is killed or \
         returns, and for up to 3 s when its host dies or is cut off.",
        "the death or the return of a relay with a better name";
    SITES_RELAYS_GONE = Counter "sites_relays_gone_total" ["how"],
        "Relays of this site that this node hears no more: they said that they stop (`stopped`), nobody serves at their address (`closed`), \
         both at once; or they were silent for 3 s (`silent`).",
        "a relay that stops, is killed, or whose host is gone";
    SITES_SESSION = Gauge "sites_session" ["site"],
        "1 while a relay of this site has a session with the other one, as this node hears it. Traffic does not depend on it.",
        "a relay that ends, a cut between relays, a certificate that is not believed";
    SITES_BYTES = Counter "sites_session_bytes_total" ["site", "direction"],
        "Bytes of frames of the sessions of this node's relay with a site, without TLS, TCP and acknowledgements; 0 where there is no relay.",
        "changes of services in one of the two sites, and beats";
    SITES_STATE_AGE = Gauge "sites_state_age_seconds" ["site"],
        "Seconds since the site last said, or confirmed, all that is held of it. Up to 20 s are normal; beyond 90 s its weight falls.",
        "a session that is down";
    SITES_OTHERS_REACH = Gauge "sites_others_reach" ["site"],
        "1 while another site says that it reaches this one, by a path or a session; 0 while none of those that say something does. Absent where \
         nobody can say: with two sites, and 30 s after the last word. For up to 15 s a site that is off is reached by its sessions.",
        "a site that is off, or cut off from all others";
    SITES_REFUSED = Counter "sites_refused_total" ["plane", "reason"],
        "What was not taken from other sites or from nodes of this one: callers of the relay (`state`, `nodes`), records of sites that call \
         rightly (`records`), datagrams (`probes`). Who sent it is in the log, once. `unknown`: parts of a later version, left out; what was \
         around them holds.",
        "a wrong, expired or revoked certificate; a VIP outside of the prefixes; a datagram that nobody signed; an upgrade that is under way";
    SITES_PATH_UP = Gauge "sites_path_up" ["site"],
        "1 while probes of this node and of the other site's gateways get through both ways. 0 as long as none ever did, too.",
        "a cut, a firewall, another secret at the other end";
    SITES_PATH_LOSS = Gauge "sites_path_loss_ratio" ["site", "direction"],
        "Share of probes lost over the last 10 s, seen from here. It moves traffic only under an alarm: single bursts are in it, too.",
        "loss on the way, in that direction";
    SITES_PATH_RTT = Gauge "sites_path_rtt_seconds" ["site"],
        "Median round trip of probes of the last 5 s, the time that the other node held them taken off. Absent before the first.",
        "a longer way, a full queue";
    SITES_PATH_MTU = Gauge "sites_path_mtu_bytes" ["site"],
        "Largest IP packet that gets through, found every half minute up to the 1500 bytes that are tried. It says nothing while the path is down.",
        "a tunnel or a filter on the way";
    SITES_GATEWAYS_SILENT = Gauge "sites_gateways_silent" ["site"],
        "Gateways of the site that probes of this node do not reach, or have reached again for less than 10 s: nothing is sent to them. 0 while \
         the whole path is down, and where this node is no gateway and does not probe.",
        "a node of the other site that died, a daemon that is being replaced";
    SITES_PATH_QUIET = Gauge "sites_path_quiet" ["site"],
        "1 while handshakes of this node's clients speak for the path and one probe a second is sent (`site.quietProbes`): at both ends 200 a second and more for 2 s, of services with \
         `return: viaIngress`, hardly one of which fails. Loss and round trip are those of few probes then.",
        "traffic that comes and goes, clients that do not go on, a probe that is lost";
    SITES_PATH_PACKETS = Counter "sites_path_packets_total" ["site", "direction"],
        "Probes that were given to the kernel, and datagrams that came from the nodes of the site, whatever became of them.",
        "time: ten a second and flow";
    SITES_SCORE = Gauge "sites_service_score" ["service", "site"],
        "What the policy thinks of a service at a site, 0 to 100: endpoints, path and age of its word, the worst of them. Not its share.",
        "endpoints that are not ready, loss, a longer round trip, old news";
    SITES_SHARE = Gauge "sites_service_share" ["service", "site"],
        "Share of new connections that this node sends to a site, 0 to 1. Those that exist stay where they are.",
        "a rule of the policy: `bascule why` names it";
    SITES_DEMAND = Gauge "sites_service_demand" ["service", "of"],
        "New connections (UDP: datagrams) a second that clients ask for, wherever they are carried: at this node (`node`), and at all nodes of \
         the site as the relay that leads has added them up (`site`). Averages of 1 to 8 s; a SYN that is repeated counts again.",
        "clients that come or go";
    SITES_CAPACITY = Gauge "sites_service_capacity" ["service"],
        "What the site's ready endpoints carry by the configuration, in units of the demand; 0: nobody said, and nothing spills.",
        "endpoints that become ready or fail";
    SITES_CREDIT = Gauge "sites_service_credit" ["service", "direction"],
        "Room that this site has lent to others in the last second, or that others lend to it, in units of the demand. What exceeds a site and \
         is not borrowed stays.",
        "a site that is full beside one that is not";
    SITES_HANDSHAKES = Counter "sites_service_handshakes_total" ["service", "site", "result"],
        "TCP handshakes that clients of this node began with a service and that were sent to the site: `answered`, the client went on; `failed`, it did \
         not for a second. A sample where there are more than 8192 at a time. SYNs that nobody stands behind fail as well, at all sites alike.",
        "new connections; endpoints that drop or reset SYNs, a way that carries probes only, a flood";
    SITES_EJECTIONS = Counter "sites_service_ejections_total" ["service", "site"],
        "How often the site got no new connections for 30 s times n because it said ready and more handshakes with it failed than elsewhere. Nobody \
         is ejected whom no other site can stand in for.",
        "endpoints that pass their checks and serve nobody";
    SITES_DRAINS = Gauge "sites_drains" ["site"],
        "Orders in force that take something of the site out of use: the site, services, VIPs, nodes or endpoints; of other sites those that \
         take whole services. Also when their deadline has passed. Absent at 0.",
        "`bascule drain site` and the like, and the same with `--off`";
    SITES_ACTIVE = Gauge "sites_service_active" ["service"],
        "1 while this node may answer for the service of one site at a time: its site has the lease, by this node's own proof. The sum over the \
         nodes of two sites is never above that of one. Of services with `mode: activePassive` only.",
        "a lease won, lost or run out";
    SITES_TERM = Gauge "sites_service_term" ["service"],
        "The term by which this node answers for the service: a revision of etcd, which only grows, over all sites. Absent without one.",
        "another site, or the same one anew, that won the lease";
    SITES_GRANTS = Counter "sites_service_grants_total" ["service"],
        "How often this node came to answer for the service. Renewals are none.",
        "a move of the lease to this site, a deadline that passed without a renewal, a restart";
    SITES_HANDOVERS = Counter "sites_service_handovers_total" ["service", "reason"],
        "How often this node closed the service and gave up its share of the lease as planned, so that another site has it at once: `draining`, \
         `failback`. It counts at each node of the site, and says nothing of whether another one took it (the sum of sites_service_active).",
        "`bascule drain service` or `site`, `draining: true`, a better site with `failback: auto`";
    SITES_FENCE_DROPS = Counter "sites_fence_drops_total" ["reason"],
        "Frames that the second fence dropped, by reason, since its maps were made: it silences the addresses of endpoints whose service another \
         site has, for the second or two in which a lease ends, and from a missed deadline on. Absent where it does not stand.",
        "a lease that ended while clients go on, a daemon that stands still";
    SITES_AUTHORITY = Gauge "sites_authority_reachable" ["service"],
        "1 while the etcd that decides which site has the service answers this node. At 0 a site that has it falls silent at its deadline.",
        "a majority that is gone, a cut, a certificate that is not believed";
    SITES_TABLES = Counter "sites_tables_total" ["service"],
        "Site tables of a service so far: how often shares moved. One move of a tenth a second makes many.",
        "a change of facts, of a score or of the configuration";
    CONFIG_RELOAD = Counter "config_reload_total" ["result"],
        "Configurations read after the start, applied or refused. After a refused one the last good one stays in force.",
        "SIGHUP or a changed file, good or bad";
    READY = Gauge "ready" [],
        "1 when /ready would say yes: every group takes part or is deliberately out, and the fence is as the policy demands. It does \
         not say that any address is held.",
        "a missing fence, a condition such as vrid_in_use, a stopped loop";
    BUILD_INFO = Gauge "build_info" ["node", "version", "instance"],
        "Always 1; the labels are the name of the node, the version of the binary that runs, which is not always the one on disk, and which \
         of several daemons on the node it is.",
        "an upgrade";
}
