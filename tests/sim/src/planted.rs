//! How a simulator lists its planted bugs.

/// An enum `Mutant` of planted bugs with their names on the command line: `ALL` of them, from a name and to it.
macro_rules! planted {
    ($($(#[$doc:meta])+ $bug:ident = $name:literal,)+) => {
        /// A planted bug.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant {
            $($(#[$doc])+ $bug,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$bug),+];

            /// Its name on the command line.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)+
                }
            }
        }

        impl core::str::FromStr for Mutant {
            type Err = String;

            fn from_str(name: &str) -> Result<Self, String> {
                let found = Self::ALL.into_iter().find(|mutant| mutant.as_str() == name);
                found.ok_or_else(|| format!("planted bugs: {}", Self::ALL.map(Self::as_str).join(", ")))
            }
        }

        impl core::fmt::Display for Mutant {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(crate) use planted;
