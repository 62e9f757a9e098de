//! The device layer on whatever device is selected: choice of the library, memory, launches, waits.
//! Without any device every test here fails; none is skipped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::Duration;

use hadal::device::{Buffer, Context, DeviceError, Stream, device_count, selected};
use hadal::params::WaitOutcome;
use hadal::transfer::{fill_words, probe_arithmetic, wait_word};

fn stream(ordinal: u32) -> Stream {
    Stream::new(&Context::new(ordinal).unwrap()).unwrap()
}

#[test]
fn a_device_is_selected() {
    let selected = selected().unwrap();
    assert!(selected.devices >= 1, "{selected}");
    assert_eq!(device_count().unwrap(), selected.devices);
}

/// Runs [`a_device_is_selected`] in a process of its own, as the choice is made once per process.
fn select_with(variables: &[(&str, &str)]) -> (bool, String) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "a_device_is_selected"])
        .envs(variables.iter().copied());
    let output = child.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn a_wrong_library_is_an_error_that_names_it() {
    let variables = [("HADAL_DEVICE", "soft"), ("HADAL_SOFTGPU", "/nonexistent")];
    let (success, text) = select_with(&variables);
    assert!(!success && text.contains("/nonexistent"), "{text}");
    assert!(
        text.contains("HADAL_SOFTGPU names it, but it is not a file"),
        "{text}"
    );
    let (success, text) = select_with(&[("HADAL_DEVICE", "softly")]);
    assert!(!success && text.contains("softly"), "{text}");
}

#[test]
fn another_libcuda_on_the_search_path_does_not_hide_the_software_gpu() {
    let folder = tempfile::tempdir().unwrap();
    // Any library does: it only has to be found under the name.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let loaded = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5));
    let libc = loaded
        .into_iter()
        .find(|path| path.contains("libc.so"))
        .unwrap();
    std::fs::copy(libc, folder.path().join("libcuda.so")).unwrap();
    let inherited = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let path = format!("{}:{inherited}", folder.path().display());
    let (success, text) = select_with(&[("HADAL_DEVICE", "soft"), ("LD_LIBRARY_PATH", &path)]);
    assert!(success, "{text}");
}

#[test]
fn memory_keeps_what_is_copied() {
    let stream = stream(0);
    for len in [0usize, 1, 3, 4097, 1 << 20] {
        let data: Vec<u32> = (0u32..)
            .map(|i| i.wrapping_mul(2_654_435_761))
            .take(len)
            .collect();
        let buffer = Buffer::from_slice(&stream, &data).unwrap();
        let mut copy = Buffer::zeroed(&stream, len).unwrap();
        assert!(
            copy.to_vec(&stream)
                .unwrap()
                .iter()
                .all(|&word: &u32| word == 0),
            "{len}"
        );
        copy.copy_from_buffer(&stream, &buffer).unwrap();
        let back = copy.to_vec(&stream).unwrap();
        assert_eq!(
            back.iter().zip(&data).position(|(a, b)| a != b),
            None,
            "length {len}"
        );
        assert_eq!(back.len(), len);
    }
    let mut buffer = Buffer::<u32>::alloc(stream.context(), 4).unwrap();
    let error = buffer.copy_from(&stream, &[1, 2, 3]).unwrap_err();
    assert!(
        matches!(
            error,
            DeviceError::Length {
                found: 3,
                expected: 4,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn parts_of_a_buffer_are_read_and_written() {
    let stream = stream(0);
    let mut buffer = Buffer::from_slice(&stream, &[0u32, 1, 2, 3, 4]).unwrap();
    buffer.write(&stream, 3, &[30, 40]).unwrap();
    buffer.write(&stream, 5, &[]).unwrap();
    let mut part = [0; 3];
    buffer.read(&stream, 1, &mut part).unwrap();
    assert_eq!(part, [1, 2, 30]);
    assert_eq!(buffer.to_vec(&stream).unwrap(), [0, 1, 2, 30, 40]);
    for start in [3, 6, usize::MAX] {
        let error = buffer.read(&stream, start, &mut part).unwrap_err();
        assert!(
            matches!(error, DeviceError::Length { expected: 5, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_kernel_fills_exactly_its_buffer() {
    let stream = stream(0);
    for len in [0usize, 1, 255, 256, 257, 100_000] {
        let before = Buffer::from_slice(&stream, &vec![7u32; 1024]).unwrap();
        let mut buffer = Buffer::zeroed(&stream, len).unwrap();
        let after = Buffer::from_slice(&stream, &vec![7u32; 1024]).unwrap();
        fill_words(&stream, &mut buffer, 0xdead_beef).unwrap();
        let words = buffer.to_vec(&stream).unwrap();
        assert_eq!(
            words.iter().position(|&word| word != 0xdead_beef),
            None,
            "length {len}"
        );
        for neighbour in [before, after] {
            assert!(
                neighbour
                    .to_vec(&stream)
                    .unwrap()
                    .iter()
                    .all(|&word| word == 7),
                "{len}"
            );
        }
    }
}

#[test]
fn launches_are_counted_by_name() {
    let stream = stream(0);
    let mut buffer = Buffer::zeroed(&stream, 10).unwrap();
    for value in 0..3 {
        fill_words(&stream, &mut buffer, value).unwrap();
    }
    assert_eq!(stream.context().launches(), [("fill_words", 3)]);
    stream.synchronize().unwrap();
}

#[test]
fn objects_of_different_contexts_do_not_mix() {
    let (one, other) = (stream(0), stream(0));
    let mut buffer = Buffer::zeroed(&one, 10).unwrap();
    let error = fill_words(&other, &mut buffer, 1).unwrap_err();
    assert!(
        matches!(error, DeviceError::WrongContext { what: "buffer", .. }),
        "{error}"
    );
    assert!(matches!(
        other.context().kernel("no_such_kernel").unwrap_err(),
        DeviceError::UnknownKernel { .. }
    ));
}

#[test]
fn an_ordinal_beyond_the_devices_is_an_error() {
    let error = Context::new(device_count().unwrap()).unwrap_err();
    let DeviceError::Driver {
        call, code: 101, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*call, "cuDeviceGet");
}

#[test]
fn a_wait_sees_the_word_that_another_stream_writes() {
    let (waiter, writer) = {
        let context = Context::new(0).unwrap();
        (
            Stream::new(&context).unwrap(),
            Stream::new(&context).unwrap(),
        )
    };
    let mut word = Buffer::zeroed(&writer, 1).unwrap();
    writer.synchronize().unwrap();
    let mut outcome = Buffer::<WaitOutcome>::zeroed(&waiter, 1).unwrap();
    wait_word(&waiter, &word, 5, Duration::from_secs(60), &mut outcome).unwrap();
    let error = waiter
        .synchronize_within(Duration::from_millis(30))
        .unwrap_err();
    assert!(matches!(error, DeviceError::Timeout { .. }), "{error}");
    fill_words(&writer, &mut word, 5).unwrap();
    let outcome = outcome.to_vec(&waiter).unwrap()[0];
    assert_eq!((outcome.seen, outcome.expired), (5, 0), "{outcome:?}");
}

#[test]
fn a_wait_that_expires_says_so_and_the_context_stays_usable() {
    let stream = stream(0);
    let mut word = Buffer::from_slice(&stream, &[3u32]).unwrap();
    let mut outcome = Buffer::<WaitOutcome>::zeroed(&stream, 1).unwrap();
    let limit = Duration::from_millis(20);
    wait_word(&stream, &word, 5, limit, &mut outcome).unwrap();
    let outcome = outcome.to_vec(&stream).unwrap()[0];
    assert_eq!((outcome.seen, outcome.expired), (3, 1), "{outcome:?}");
    assert!(outcome.waited_ns >= 20_000_000, "{outcome:?}");
    fill_words(&stream, &mut word, 9).unwrap();
    assert_eq!(word.to_vec(&stream).unwrap(), [9]);
}

/// The loop of `ptx/probe_arithmetic.ptx` in plain Rust.
fn arithmetic(thread: u32, iterations: u32) -> u32 {
    let mut f = [(thread % 256) as f32, 0.5, 1.0, 2.0];
    let mut r = [0, 1, 2, 3].map(|i| thread.wrapping_add(i));
    for _ in 0..iterations {
        for step in 0..4 {
            for (k, value) in f.iter_mut().enumerate() {
                let odd = (k + step) % 2 == 1;
                let (factor, addend) = if odd { (0.75, -0.5) } else { (0.5, 1.0) };
                *value = value.mul_add(factor, addend);
            }
            for k in 0..4 {
                let next = r[(k + 1) % 4];
                r[k] = match (k + step) % 4 {
                    0 => r[k].wrapping_add(next),
                    1 => r[k] ^ next,
                    2 => r[k].wrapping_mul(1_664_525).wrapping_add(next),
                    _ => r[k].wrapping_sub(next),
                };
            }
        }
    }
    let floats = f.iter().fold(0, |digest, value| digest ^ value.to_bits());
    r.iter().fold(floats, |digest, word| digest ^ word)
}

#[test]
fn arithmetic_is_that_of_the_host() {
    let stream = stream(0);
    for iterations in [1, 2, 17] {
        let mut output = Buffer::zeroed(&stream, 512).unwrap();
        probe_arithmetic(&stream, &mut output, iterations).unwrap();
        let found = output.to_vec(&stream).unwrap();
        for (thread, &digest) in (0u32..).zip(&found) {
            let expected = arithmetic(thread, iterations);
            assert_eq!(digest, expected, "thread {thread}, {iterations} iterations");
        }
    }
}

#[test]
fn a_planted_error_changes_the_result() {
    let stream = stream(0);
    let ptx = hadal::kernels::find("probe_arithmetic").unwrap().ptx;
    let planted = ptx.replacen("add.u32 %r4, %r4, %r5;", "sub.u32 %r4, %r4, %r5;", 1);
    assert_ne!(planted, ptx, "the instruction to change is gone");
    stream
        .context()
        .replace_ptx("probe_arithmetic", planted)
        .unwrap();
    let mut output = Buffer::zeroed(&stream, 256).unwrap();
    probe_arithmetic(&stream, &mut output, 3).unwrap();
    let found = output.to_vec(&stream).unwrap();
    assert_ne!(found[1], arithmetic(1, 3));
}
