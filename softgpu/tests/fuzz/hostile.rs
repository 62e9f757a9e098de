//! Texts made to exhaust something: stack, memory, time.

use std::fmt::Write;

use crate::survive;

const HEAD: &str = ".version 9.0\n.target sm_90a\n.address_size 64\n";

fn entry(body: &str) -> String {
    format!("{HEAD}.visible .entry k(.param .u64 p)\n{{\n{body}\nret;\n}}\n")
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    open.repeat(depth) + &close.repeat(depth)
}

#[test]
fn nesting_needs_no_stack() {
    for depth in [1000, 300_000] {
        survive("scopes", &entry(&nested("{", "}", depth)));
        survive("unclosed scopes", &entry(&"{".repeat(depth)));
        survive("closed scopes", &entry(&"}".repeat(depth)));
        let initialiser = |init: &str| format!("{HEAD}.global .u32 x[4] = {init};\n");
        survive("initialiser", &initialiser(&nested("{", "}", depth)));
        survive("unclosed initialiser", &initialiser(&"{".repeat(depth)));
        survive("expression", &initialiser(&nested("(", ")", depth)));
        survive("signs", &initialiser(&"-".repeat(depth)));
        survive("complements", &initialiser(&("~".repeat(depth) + "1")));
        survive("not", &initialiser(&("!".repeat(depth) + "1")));
        survive("casts", &initialiser(&("(.s64)".repeat(depth) + "1")));
        survive("generic", &initialiser(&nested("generic(", ")", depth)));
        survive("sums", &initialiser(&("1+".repeat(depth) + "1")));
        survive("choices", &initialiser(&("1?1:".repeat(depth) + "1")));
        for (open, close) in [
            ("{", "}"),
            ("(", ")"),
            ("[", "]"),
            ("!", ""),
            ("-", ""),
            ("|", ""),
        ] {
            let operand = nested(open, close, depth);
            survive("operand", &entry(&format!("mov.b32 {operand}, 1;")));
            survive("call", &entry(&format!("call {operand};")));
        }
        survive("guards", &entry(&"@p ".repeat(depth)));
        survive("comments", &(HEAD.to_owned() + &nested("/*", "*/", depth)));
        survive(
            "dimensions",
            &format!("{HEAD}.global .u8 x{};\n", "[1]".repeat(depth)),
        );
        survive(
            "attributes",
            &format!("{HEAD}{} .u8 x;\n", ".align 4 ".repeat(depth)),
        );
    }
}

const NUMBERS: [&str; 20] = [
    "4294967295",
    "4294967296",
    "2147483648",
    "0xffffffffffffffff",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "0",
    "-9223372036854775808",
    "0x7fffffffffffffff",
    "99999999999999999999999999999999999999",
    "0b1111",
    "07777777777777777777777777",
    "1e999",
    "0f7f800000",
    "0d7ff0000000000000",
    "0x",
    "1U",
    "0xffU",
    "00000000000000000000",
];
const MODULE: [&str; 18] = [
    ".global .u32 x[N];",
    ".global .align N .u32 x;",
    ".global .u64 x[2] = {N, N};",
    ".global .u8 x[N] = {1};",
    ".const .u64 x[N][N];",
    ".shared .b8 x[N];",
    ".extern .shared .b8 x[N];",
    ".file N \"a\"",
    ".entry k(.param .b8 p[N]) { ret; }",
    ".entry k(.param .align N .b8 p[4]) { ret; }",
    ".entry k() .maxntid N, N, N { ret; }",
    ".entry k() .reqntid N { ret; }",
    ".entry k() .maxnreg N { ret; }",
    ".entry k() .reqnctapercluster N { ret; }",
    ".entry k() .minnctapersm N { ret; }",
    ".global .u64 y; .global .u64 x = y+N;",
    ".func f(.param .b8 p[N]) { ret; }",
    ".common .global .u8 x[N];",
];
const BODY: [&str; 27] = [
    ".reg .b32 %r<N>;",
    ".reg .pred p<N>; .reg .b64 d<N>;",
    ".local .b8 x[N];",
    ".shared .b8 x[N];",
    ".shared .align N .b8 x[4];",
    ".param .b8 x[N];",
    ".reg .b32 a; mov.b32 a, N;",
    ".reg .b64 a; mov.b64 a, N;",
    ".reg .b32 a; ld.global.u32 a, [N];",
    ".reg .b32 a; ld.param.u32 a, [p+N];",
    ".reg .b64 a; ld.global.u64 a, [a+N];",
    "bar.sync N, N;",
    ".reg .b32 a; shf.l.wrap.b32 a, a, a, N;",
    ".reg .b32 a; lop3.b32 a, a, a, a, N;",
    "setmaxnreg.inc.sync.aligned.u32 N;",
    "cp.async.wait_group N;",
    "wgmma.wait_group.sync.aligned N;",
    "nanosleep.u32 N;",
    ".reg .b64 a; alloca.u64 a, N;",
    ".reg .b32 a; .reg .b64 b; cp.async.ca.shared.global [a], [b], N;",
    ".reg .b32 a; shfl.sync.idx.b32 a, a, N, N, N;",
    ".reg .pred q; .reg .b64 b; mbarrier.try_wait.parity.shared.b64 q, [N], N, N;",
    ".reg .b64 a; mov.b64 a, p+N;",
    ".loc N N N",
    ".pragma \"N\";",
    ".reg .v4 .b32 v<N>;",
    ".local .align 8 .b8 a[N], b[N], c[N];",
];

#[test]
fn huge_numbers_are_refused() {
    for number in NUMBERS {
        for text in MODULE {
            survive("module", &format!("{HEAD}{}\n", text.replace('N', number)));
        }
        for text in BODY {
            survive("body", &entry(&text.replace('N', number)));
        }
        survive(
            "version",
            &format!(".version {number}.{number}\n.target sm_{number}\n.address_size {number}\n"),
        );
    }
}

/// A line many times, `#` replaced by its number.
fn many(count: usize, line: &str) -> String {
    let mut text = String::new();
    for i in 0..count {
        writeln!(text, "{}", line.replace('#', &i.to_string())).unwrap();
    }
    text
}

#[test]
fn many_statements_are_read_in_proportion() {
    survive("registers", &entry(&many(60_000, ".reg .b32 r#;")));
    survive(
        "scopes in a row",
        &entry(&many(60_000, "{ .reg .b32 r; mov.b32 r, #; }")),
    );
    survive("labels", &entry(&many(60_000, "L#: bra L#;")));
    survive(
        "chain",
        &entry(&many(60_000, "L#:\n.reg .b32 r#;\nmov.b32 r#, #;")),
    );
    survive(
        "jumps to one",
        &entry(&("E:\n".to_owned() + &many(10_000, ".reg .pred q#; @q# bra E;"))),
    );
    survive(
        "ladder",
        &entry(&(many(3_000, ".reg .pred q#; @q# bra L#;") + &many(3_000, "L#:"))),
    );
    let loops: String = (0..2000).rev().fold(String::new(), |inner, i| {
        format!(".reg .pred q{i};\nL{i}:\n{inner}@q{i} bra L{i};\n")
    });
    survive("loops in loops", &entry(&loops));
    let targets = many(20_000, "T#,").replace('\n', " ") + "T0";
    survive(
        "targets",
        &entry(
            &(format!("B: .branchtargets {targets};\n.reg .b32 i; brx.idx i, B;\n")
                + &many(20_000, "T#:")),
        ),
    );
    survive(
        "globals",
        &(HEAD.to_owned() + &many(60_000, ".global .u32 g# = #;")),
    );
    survive(
        "entries",
        &(HEAD.to_owned() + &many(20_000, ".entry k#() { ret; }")),
    );
}

#[test]
fn long_statements_are_read_in_proportion() {
    survive(
        "one line",
        &entry(&many(60_000, "mov.b32 r, #;").replace('\n', " ")),
    );
    survive("one word", &entry(&"a".repeat(2_000_000)));
    survive(
        "one opcode",
        &entry(&format!("mov{};", ".b32".repeat(300_000))),
    );
    survive(
        "one number",
        &entry(&format!("mov.b32 a, {};", "9".repeat(2_000_000))),
    );
    survive(
        "one string",
        &format!("{HEAD}.file 1 \"{}\"\n", "x".repeat(2_000_000)),
    );
    survive(
        "no end of string",
        &format!("{HEAD}.file 1 \"{}", "x".repeat(2_000_000)),
    );
    survive(
        "operands",
        &entry(&format!("mov.b32 a{};", ", a".repeat(300_000))),
    );
    survive(
        "vector",
        &entry(&format!("mov.b32 {{a{}}}, a;", ", a".repeat(300_000))),
    );
    survive(
        "values",
        &format!("{HEAD}.global .u8 x[] = {{1{}}};\n", ",1".repeat(600_000)),
    );
    survive("spaces", &format!("{HEAD}{}", " \t\r\n".repeat(500_000)));
    survive("bytes", &"\u{0}\u{1}\u{7f}".repeat(100_000));
}

#[test]
fn calls_in_circles_end() {
    let call = |name: &str, callee: &str| format!(".func {name}() {{ call.uni {callee}; ret; }}\n");
    let kernel = ".entry k() { call.uni a; ret; }\n";
    let declared = ".func a();\n.func b();\n";
    survive(
        "itself",
        &format!("{HEAD}.func a();\n{}{kernel}", call("a", "a")),
    );
    survive(
        "each other",
        &format!(
            "{HEAD}{declared}{}{}{kernel}",
            call("a", "b"),
            call("b", "a")
        ),
    );
    // Expanding calls in place would take 3^30 instructions.
    let mut text = format!("{HEAD}.func f0() {{ ret; }}\n");
    for i in 1..30 {
        let call = format!("call.uni f{};\n", i - 1);
        writeln!(text, ".func f{i}() {{ {call}{call}{call} ret; }}").unwrap();
    }
    survive(
        "tree",
        &(text.clone() + ".entry k() { call.uni f29; ret; }\n"),
    );
    let mut chain = format!("{HEAD}.func f0() {{ ret; }}\n");
    for i in 1..3000 {
        writeln!(chain, ".func f{i}() {{ call.uni f{}; ret; }}", i - 1).unwrap();
    }
    survive("chain", &(chain + ".entry k() { call.uni f2999; ret; }\n"));
    survive("no such", &format!("{HEAD}{kernel}"));
    survive("variable", &format!("{HEAD}.global .u32 a;\n{kernel}"));
    survive(
        "entry",
        &format!("{HEAD}.entry a() {{ call.uni a; ret; }}\n{kernel}"),
    );
}
