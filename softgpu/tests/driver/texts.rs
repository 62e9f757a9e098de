//! PTX texts with their input and expected output in comments: `testdata/run/*.ptx`.
//!
//! One block of `// threads:` (1 if absent) runs `run(in, out)`; `// word:` and `// expect:` list
//! 32-bit words in hexadecimal. The output starts out as zeros.

use std::path::Path;

use cudarc::driver::sys::CUresult;

use crate::support::{Context, DEFAULT, alloc, assert_same, download, function, module, upload};

fn words(text: &str, key: &str) -> Vec<u32> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("// "));
    lines
        .filter_map(|line| line.strip_prefix(key))
        .flat_map(str::split_whitespace)
        .map(|word| u32::from_str_radix(word, 16).unwrap())
        .collect()
}

#[test]
fn texts_give_what_they_say() {
    let _context = Context::new(0);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/run");
    let mut texts = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        eprintln!("{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = words(&text, "expect:");
        assert!(!expected.is_empty());
        let input = upload(&[words(&text, "word:"), vec![0; 4]].concat());
        let output = alloc::<u32>(expected.len());
        cu!(cuMemsetD32_v2(output, 0, expected.len()));
        let threads = words(&text, "threads:").first().copied().unwrap_or(1);
        let run = function(module(&text), "run");
        let launched = launch!(run, [1; 3], [threads, 1, 1], 0, DEFAULT, [input, output]);
        assert_eq!(launched, CUresult::CUDA_SUCCESS);
        assert_same(&download::<u32>(output, expected.len()), &expected);
        texts += 1;
    }
    assert!(texts > 0);
}
