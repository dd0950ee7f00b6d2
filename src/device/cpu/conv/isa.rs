//! Which instructions convolutions use: the best of the processor, or what `U2PL_CPU_ISA` asks
//! for (to compare them, or to test one that is not the best).

use std::sync::LazyLock;

use super::half::Path;
use super::micro::Isa;
use crate::error::{Error, Result};

/// The environment variable.
const VARIABLE: &str = "U2PL_CPU_ISA";

/// Instructions by operand type.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    /// f32.
    pub float: Isa,
    /// bf16.
    pub half: Path,
}

/// What this process uses; the environment is read once.
pub(super) fn choice() -> Result<Choice> {
    static CHOICE: LazyLock<std::result::Result<Choice, [String; 3]>> =
        LazyLock::new(|| match std::env::var_os(VARIABLE) {
            None => Ok(Choice::best()),
            Some(name) => Choice::named(&name.to_string_lossy()),
        });
    CHOICE
        .clone()
        .map_err(|[place, problem, mend]| Error::input(place, problem, mend))
}

impl Choice {
    fn best() -> Self {
        Self {
            float: Isa::detect(),
            half: Path::available().first().copied().unwrap_or(Path::Widened),
        }
    }

    /// One that names a bf16 instruction set leaves f32 at its best; one that names an f32 set
    /// computes bf16 in f32.
    fn named(name: &str) -> std::result::Result<Self, [String; 3]> {
        let (floats, halves) = (Isa::available(), Path::available());
        let halves = halves.into_iter().filter(|&path| path != Path::Widened);
        let of_halves = halves.map(|half| {
            (
                half.name(),
                Self {
                    half,
                    ..Self::best()
                },
            )
        });
        let of_floats = floats.into_iter().map(|float| {
            let half = Path::Widened;
            (float.name, Self { float, half })
        });
        let known: Vec<(&str, Self)> = of_halves.chain(of_floats).collect();
        match known.iter().find(|(known, _)| *known == name) {
            Some((_, choice)) => Ok(*choice),
            None => {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                Err([
                    format!("{VARIABLE}={name}"),
                    "this processor has no such instruction set".into(),
                    format!("unset it, or use one of {}", names.join(", ")),
                ])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_set_is_chosen_by_name() {
        let Ok(portable) = Choice::named("portable") else {
            panic!("every processor has it");
        };
        assert_eq!(
            (portable.float.name, portable.half),
            ("portable", Path::Widened)
        );
        for path in Path::available() {
            if path != Path::Widened {
                let choice = Choice::named(path.name());
                assert!(choice.is_ok_and(|c| c.half == path), "{path:?}");
            }
        }
        let Err([place, _, mend]) = Choice::named("mmx") else {
            panic!("mmx is none of them");
        };
        assert_eq!(place, "U2PL_CPU_ISA=mmx");
        assert!(mend.contains("portable"), "{mend}");
    }
}
