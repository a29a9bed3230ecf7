//! What happens between the sites.

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// The route of the VIP moves to the other site and back, under live flows.
    Shift,
    /// A site says by its files that it takes nothing new of a service.
    Drain,
    /// A whole site goes: nothing comes from it and nothing goes there.
    Death,
    /// It is back.
    Return,
    /// Packets from and to a site are lost now and then.
    Brownout,
}

impl Scene {
    /// In the order they are played: each finds what the one before it left.
    pub const ALL: [Self; 5] = [Self::Shift, Self::Drain, Self::Death, Self::Return, Self::Brownout];

    /// Its name in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shift => "sites: anycast shift",
            Self::Drain => "sites: drain",
            Self::Death => "sites: site death",
            Self::Return => "sites: return",
            Self::Brownout => "sites: brownout",
        }
    }
}
