//! Who may own a group now.

pub mod grace;
pub mod lease;
pub mod vrrp;

/// Why a role changed. One word each: it is a label of `vip_transitions_total` and the `reason` of the log line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Start of participation.
    Started,
    /// No advert for Active_Down_Interval.
    ActiveDown,
    /// The Active released with priority 0.
    PeerReleased,
    /// A healthy Backup takes over from a sick Active.
    SickActive,
    /// Planned: the owner granted it.
    Handover,
    /// An Active of higher priority (or equal priority and higher address) was heard.
    HigherPriority,
    /// A lower-priority Active kept advertising although we re-asserted: it cannot hear us.
    OneWay,
    /// The fence closed: no advert left in time.
    FenceExpired,
    /// The kernel saw a superior advert before we did, or an advert that broke the silence which our claim stood on.
    Overtaken,
    /// Told to stop or to drain.
    Stopped,
    /// The link is down or gone.
    LinkDown,
    /// The stanza was removed or changed beyond an update in place.
    Reconfigured,
    /// Every gate fails and `whenAllFail: release`.
    Unhealthy,
    /// The fence cannot be armed.
    FenceUnavailable,
    /// A foreign host holds one of the addresses.
    AddressInUse,
    /// The kernel refuses the addresses.
    InstallFailed,
    /// The lease is this node's.
    LeaseAcquired,
    /// The lease names somebody else, or is gone.
    LeaseLost,
}

impl Reason {
    /// Every reason, for metrics that must exist before they move.
    pub const ALL: [Self; 18] = [
        Self::Started,
        Self::ActiveDown,
        Self::PeerReleased,
        Self::SickActive,
        Self::Handover,
        Self::HigherPriority,
        Self::OneWay,
        Self::FenceExpired,
        Self::Overtaken,
        Self::Stopped,
        Self::LinkDown,
        Self::Reconfigured,
        Self::Unhealthy,
        Self::FenceUnavailable,
        Self::AddressInUse,
        Self::InstallFailed,
        Self::LeaseAcquired,
        Self::LeaseLost,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::ActiveDown => "active_down",
            Self::PeerReleased => "peer_released",
            Self::SickActive => "sick_active",
            Self::Handover => "handover",
            Self::HigherPriority => "higher_priority",
            Self::OneWay => "one_way",
            Self::FenceExpired => "fence_expired",
            Self::Overtaken => "overtaken",
            Self::Stopped => "stopped",
            Self::LinkDown => "link_down",
            Self::Reconfigured => "reconfigured",
            Self::Unhealthy => "unhealthy",
            Self::FenceUnavailable => "fence_unavailable",
            Self::AddressInUse => "address_in_use",
            Self::InstallFailed => "install_failed",
            Self::LeaseAcquired => "lease_acquired",
            Self::LeaseLost => "lease_lost",
        }
    }
}
