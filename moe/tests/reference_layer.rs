//! The full-precision oracle against the published output of an independent implementation
//! (Hugging Face transformers), so that what everything else is compared with is itself proven.

use hadal_moe::checkpoint::{Checkpoint, read_hidden_states};
use hadal_moe::oracle;
use hadal_moe::tensors::TensorFile;
use hadal_reference::compare::relative_l2;
use safetensors::tensor::Dtype;
use std::path::Path;

#[test]
fn agrees_with_transformers_on_the_trained_layer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny-moe");
    let checkpoint = Checkpoint::open(&folder).expect("the project's own data");
    let weights = checkpoint.read_layer(1).expect("complete");
    let input = read_hidden_states(&folder.join("input.safetensors"), 512).expect("BF16");
    let got = oracle::full_precision(&checkpoint.config, &weights, &input);

    let expected = TensorFile::open(&folder.join("expected.safetensors")).expect("valid");
    let read = |name, dtype| {
        expected
            .read(name, &[dtype], &[None, None])
            .expect("present")
            .1
    };
    let output: Vec<f32> = bytemuck::allocation::pod_collect_to_vec(&read("output", Dtype::F32));
    let indices: Vec<i32> =
        bytemuck::allocation::pod_collect_to_vec(&read("topk_indices", Dtype::I32));

    assert_eq!(got.output.len(), output.len());
    let l2 = relative_l2(&got.output, &output);
    assert!(l2 < 1e-5, "relative L2 {l2:e}");
    for (token, choice) in got.choices.iter().enumerate() {
        let mut experts: Vec<i32> = choice
            .experts
            .iter()
            .map(|&e| i32::try_from(e).expect("small"))
            .collect();
        experts.sort_unstable();
        assert!(
            choice.margin <= 1e-5 || experts == indices[token * 4..][..4],
            "token {token}: {experts:?}, expected {:?}, margin {:e}",
            &indices[token * 4..][..4],
            choice.margin
        );
    }
}
