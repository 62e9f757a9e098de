//! Compares what a buffer holds with what it should.

use crate::file::{Buffer, Expectation};
use crate::syntax::Wanted;
use crate::value::Type;

/// The first mismatch, in words.
pub(crate) fn first_mismatch(
    buffer: &Buffer,
    expectation: &Expectation,
    found: &[u64],
) -> Option<String> {
    let ty = buffer.ty;
    let mut found = found.to_vec();
    if expectation.sorted {
        found.sort_unstable();
    }
    let wrong = |&(_, (&bits, wanted)): &(usize, (&u64, &Wanted))| {
        !agrees(ty, expectation.ulps, bits, wanted)
    };
    let pairs = found.iter().zip(&expectation.wanted).enumerate();
    let count = pairs.clone().filter(wrong).count();
    let (index, (&bits, wanted)) = pairs.clone().find(wrong)?;
    Some(format!(
        "{}[{index}] is {} ({bits:#x}), expected {}; {count} of {} differ",
        buffer.name,
        ty.show(bits),
        shown(ty, wanted),
        buffer.count,
    ))
}

fn agrees(ty: Type, ulps: u64, bits: u64, wanted: &Wanted) -> bool {
    let near = |w: u64| ty.ulps(w, bits).is_some_and(|d| d <= ulps);
    match wanted {
        Wanted::Anything => true,
        Wanted::Nan => ty.is_nan(bits),
        Wanted::Bits(list) => list.iter().any(|&w| w == bits || (ulps > 0 && near(w))),
    }
}

fn shown(ty: Type, wanted: &Wanted) -> String {
    match wanted {
        Wanted::Anything => "anything".into(),
        Wanted::Nan => "a NaN".into(),
        Wanted::Bits(list) => {
            let list: Vec<String> = list
                .iter()
                .map(|&bits| format!("{} ({bits:#x})", ty.show(bits)))
                .collect();
            list.join(" or ")
        }
    }
}
