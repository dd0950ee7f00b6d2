//! `mbarrier`.

use super::{Decoded, HopperOp, Mbarrier, Phase, count};
use crate::ptx::program::decode::{Decoder, Modifiers};
use crate::ptx::program::resolve::Line;

/// Behind `mbarrier`.
pub fn mbarrier(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
) -> Decoded<HopperOp> {
    const WHAT: [&str; 9] = [
        "init",
        "inval",
        "expect_tx",
        "complete_tx",
        "arrive",
        "arrive_drop",
        "test_wait",
        "try_wait",
        "pending_count",
    ];
    let what = m.of(|word| WHAT.into_iter().find(|k| *k == word));
    let (tx, no_complete) = (m.takes("expect_tx"), m.takes("noComplete"));
    let parity = m.takes("parity");
    m.skip(&["release", "acquire", "relaxed"]);
    m.skip(&["cta", "cluster"]);
    // Without a state space the address is generic, and must lie in shared memory.
    m.skip(&["shared", "shared::cta", "shared::cluster"]);
    if !m.takes("b64") {
        return Err(decoder.unknown(line));
    }
    let arrives = matches!(what, Some("arrive" | "arrive_drop"));
    let tests = matches!(what, Some("test_wait" | "try_wait"));
    if ((tx || no_complete) && !arrives) || (tx && no_complete) || (parity && !tests) {
        return Err(decoder.unknown(line));
    }
    let what = match what {
        Some("pending_count") => {
            count(line, decoder, 2, 2)?;
            return Ok(HopperOp::PendingCount {
                d: decoder.dst(line, 0)?,
                token: decoder.src64(line, 1)?,
            });
        }
        Some("init") => {
            count(line, decoder, 2, 2)?;
            Mbarrier::Init {
                count: decoder.src(line, 1)?,
            }
        }
        Some("inval") => {
            count(line, decoder, 1, 1)?;
            Mbarrier::Inval
        }
        Some("expect_tx") => {
            count(line, decoder, 2, 2)?;
            Mbarrier::ExpectTx {
                bytes: decoder.src(line, 1)?,
            }
        }
        Some("complete_tx") => {
            count(line, decoder, 2, 2)?;
            Mbarrier::CompleteTx {
                bytes: decoder.src(line, 1)?,
            }
        }
        Some(kind @ ("arrive" | "arrive_drop")) => {
            count(line, decoder, 2 + usize::from(tx || no_complete), 3)?;
            let d = decoder.dst64(line, 0)?;
            let value = if line.args.len() > 2 {
                Some(decoder.src(line, 2)?)
            } else {
                None
            };
            let (count, tx) = if tx { (None, value) } else { (value, None) };
            Mbarrier::Arrive {
                d,
                count,
                tx,
                no_complete,
                drop: kind == "arrive_drop",
            }
        }
        Some(kind @ ("test_wait" | "try_wait")) => {
            let wait = kind == "try_wait";
            // The hint of a time to sleep changes nothing.
            count(line, decoder, 3, 3 + usize::from(wait))?;
            let d = decoder.dst_pred(line, decoder.arg(line, 0)?)?;
            let phase = if parity {
                Phase::Parity(decoder.src(line, 2)?)
            } else {
                Phase::Token(decoder.src64(line, 2)?)
            };
            Mbarrier::Test { d, phase, wait }
        }
        _ => return Err(decoder.unknown(line)),
    };
    let at = usize::from(arrives || tests);
    Ok(HopperOp::Mbarrier {
        at: decoder.address(line, at)?,
        what,
    })
}
