//! What happens in and between the sites.

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// The route of the VIP moves to the other site and back, under live flows.
    Shift,
    /// An endpoint dies, the node beside it goes on.
    Endpoint,
    /// An operator orders that a site takes nothing new of a service.
    Drain,
    /// A whole site goes: nothing comes from it and nothing goes there.
    Death,
    /// It is back.
    Return,
    /// A node on which packets arrive loses its power.
    Node,
    /// Packets from and to a site are lost now and then.
    Brownout,
    /// [`Scene::Shift`] with many flows and nothing else, by the bench only.
    Many,
}

impl Scene {
    /// In the order they are played: each finds what the one before it left.
    pub const ALL: [Self; 7] =
        [Self::Shift, Self::Endpoint, Self::Drain, Self::Death, Self::Return, Self::Node, Self::Brownout];

    /// Its name in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shift => "sites: anycast shift",
            Self::Endpoint => "sites: endpoint killed",
            Self::Drain => "sites: drain",
            Self::Death => "sites: site death",
            Self::Return => "sites: return",
            Self::Node => "sites: ingress node dies",
            Self::Brownout => "sites: brownout",
            Self::Many => "sites: many flows shift",
        }
    }
}
