//! The sum of combined rows and the shared expert's, against host arithmetic, bit for bit.

use hadal::device::{Buffer, Context, Stream};
use hadal::moe::{MoeError, Sum, add_shared};
use half::bf16;

#[test]
fn sums_are_those_of_fp32_and_elements_beyond_stay() {
    let stream = Stream::new(&Context::new(0).unwrap()).unwrap();
    for elements in [0usize, 4, 1024, 70_004] {
        let value = |i: usize| (i as f32 * 0.37).sin() * 3.0;
        let combined: Vec<f32> = (0..elements + 4).map(value).collect();
        let shared: Vec<bf16> = (0..elements + 4)
            .map(|i| bf16::from_f32(value(i + 9)))
            .collect();
        let mut sums: Vec<f32> = combined
            .iter()
            .zip(&shared)
            .map(|(c, s)| c + s.to_f32())
            .collect();
        sums[elements..].copy_from_slice(&combined[elements..]);
        let mut rounded: Vec<bf16> = sums.iter().map(|&v| bf16::from_f32(v)).collect();
        rounded[elements..].fill(bf16::NEG_ONE);

        let mut rows = Buffer::from_slice(&stream, &combined).unwrap();
        let mut output = Buffer::from_slice(&stream, &vec![bf16::NEG_ONE; elements + 4]).unwrap();
        let shared = Buffer::from_slice(&stream, &shared).unwrap();
        let sum = Sum::Bf16 {
            combined: &rows,
            output: &mut output,
        };
        add_shared(&stream, sum, &shared, elements).unwrap();
        add_shared(&stream, Sum::InPlace(&mut rows), &shared, elements).unwrap();
        assert_eq!(output.to_vec(&stream).unwrap(), rounded, "{elements}");
        assert_eq!(rows.to_vec(&stream).unwrap(), sums, "{elements}");
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let context = Context::new(0).unwrap();
    let stream = Stream::new(&context).unwrap();
    let mut rows = Buffer::<f32>::alloc(&context, 8).unwrap();
    let shared = Buffer::<bf16>::alloc(&context, 7).unwrap();
    let odd = add_shared(&stream, Sum::InPlace(&mut rows), &shared, 6);
    assert!(matches!(
        odd,
        Err(MoeError::Desc {
            what: "elements",
            found: 6,
            ..
        })
    ));
    let short = add_shared(&stream, Sum::InPlace(&mut rows), &shared, 8);
    assert!(matches!(
        short,
        Err(MoeError::Operand {
            what: "shared",
            found: 7,
            ..
        })
    ));
}
