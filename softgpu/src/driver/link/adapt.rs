//! Calls across modules that disagree about a result.
//!
//! A linker goes by names. A module may declare a function with a result that its definition lacks,
//! as Numba does for C functions that return nothing, or without the result that it has: on a device
//! that is a register which nobody sets, or nobody reads. A call in PTX must agree with the
//! definition, so such a module gets a function in between, which is declared as the module wants it
//! and calls the one that there is. What it returns where nothing is returned is undefined.

use std::collections::BTreeMap;

use super::text::{Item, Linkage, Parts, Piece, pieces, rename};

/// The declarators of a function, each with its name replaced.
#[derive(Debug, Default)]
struct Signature {
    results: Vec<String>,
    params: Vec<String>,
}

/// Puts functions between modules where they are needed.
pub(super) fn adapt(modules: &mut [Parts]) {
    let mut definitions: BTreeMap<String, Item> = BTreeMap::new();
    let functions = modules.iter().flat_map(|module| &module.items);
    for item in functions.filter(|item| item.is_function && item.is_definition) {
        let known = definitions.get(&item.name);
        if known.is_none_or(|known| item.linkage > known.linkage) {
            definitions.insert(item.name.clone(), item.clone());
        }
    }
    for (i, module) in modules.iter_mut().enumerate() {
        adapt_module(module, i, &definitions);
    }
}

fn adapt_module(module: &mut Parts, number: usize, definitions: &BTreeMap<String, Item>) {
    let (mut renamed, mut added) = (BTreeMap::new(), Vec::new());
    let declares = |item: &Item| item.is_function && !item.is_definition;
    for item in module.items.iter().filter(|item| declares(item)) {
        let Some(definition) = definitions.get(&item.name) else {
            continue;
        };
        let (wanted, made) = (Signature::of(&item.text), Signature::of(&definition.text));
        if wanted.results.len() == made.results.len() || renamed.contains_key(&item.name) {
            continue;
        }
        let name = format!("{}$link{number}", item.name);
        added.push(declaration(definition));
        added.push(between(&name, &wanted, &item.name, &made));
        renamed.insert(item.name.clone(), name);
    }
    module
        .items
        .retain(|item| !(declares(item) && renamed.contains_key(&item.name)));
    for item in &mut module.items {
        item.text = rename(&item.text, &renamed);
    }
    module.items.extend(added);
}

/// The definition without its body.
fn declaration(definition: &Item) -> Item {
    let head = pieces(&definition.text).take_while(|piece| *piece != Piece::Mark("{"));
    let head: String = head.map(Piece::text).collect();
    Item {
        text: format!("{};", head.trim_end()),
        linkage: Linkage::Extern,
        is_definition: false,
        ..definition.clone()
    }
}

/// The function `name`, declared as `wanted`, that calls `callee`, which is declared as `made`.
fn between(name: &str, wanted: &Signature, callee: &str, made: &Signature) -> Item {
    let list = |declarators: &[String]| match declarators {
        [] => String::new(),
        declarators => format!("({})", declarators.join(", ")),
    };
    let names = |count: usize, prefix: &str| {
        let names: Vec<String> = (0..count).map(|i| format!("{prefix}{i}")).collect();
        list(&names)
    };
    let unread: String = made.results.iter().map(|r| format!("{r}; ")).collect();
    let mut call = vec![
        names(made.results.len(), "result"),
        callee.to_owned(),
        names(wanted.params.len(), "param"),
    ];
    call.retain(|part| !part.is_empty());
    let text = format!(
        ".func {} {name} ({})\n{{ {unread}call {}; ret; }}",
        list(&wanted.results),
        wanted.params.join(", "),
        call.join(", ")
    );
    Item {
        text,
        name: name.to_owned(),
        linkage: Linkage::Internal,
        is_function: true,
        is_definition: true,
    }
}

impl Signature {
    /// Reads `.func [(results)] name [(params)]`.
    fn of(text: &str) -> Self {
        let mut signature = Self::default();
        let (mut depth, mut named, mut last) = (0, false, "");
        let mut list = Vec::new();
        for piece in pieces(text) {
            match piece {
                Piece::Mark("{" | ";") => break,
                Piece::Mark("(") if depth == 0 => {
                    list.clear();
                    depth = 1;
                }
                Piece::Mark(")") if depth == 1 => {
                    depth = 0;
                    if named {
                        signature.params = declarators(&list, "param");
                    } else if last != ".attribute" {
                        signature.results = declarators(&list, "result");
                    }
                }
                Piece::Space(_) if depth == 0 => {}
                other if depth == 0 => {
                    last = other.text();
                    named |= matches!(other, Piece::Word(word) if !word.starts_with('.'));
                }
                other => {
                    depth += match other {
                        Piece::Mark("(") => 1,
                        Piece::Mark(")") => -1,
                        _ => 0,
                    };
                    list.push(other);
                }
            }
        }
        signature
    }
}

/// The declarators of a list; each gets the name `prefix` and its number.
fn declarators(list: &[Piece<'_>], prefix: &str) -> Vec<String> {
    let is_name = |word: &str| !word.starts_with(|c: char| c == '.' || c.is_ascii_digit());
    let parts = list.split(|piece| *piece == Piece::Mark(","));
    let parts = parts.filter(|part| part.iter().any(|piece| matches!(piece, Piece::Word(_))));
    let renamed = parts.enumerate().map(|(i, part)| {
        let name = format!("{prefix}{i}");
        let words = part.iter().map(|piece| match piece {
            Piece::Word(word) if is_name(word) => name.as_str(),
            other => other.text(),
        });
        words.collect::<String>().trim().to_owned()
    });
    renamed.collect()
}

#[cfg(test)]
mod tests {
    use super::Signature;

    #[test]
    fn signatures_are_read() {
        let text = ".visible .func (.param .b64 r) f ( .param .align 8 .b8 x[16], .reg .b32 y )\n;";
        let signature = Signature::of(text);
        assert_eq!(signature.results, [".param .b64 result0"]);
        let params = [".param .align 8 .b8 param0[16]", ".reg .b32 param1"];
        assert_eq!(signature.params, params);
        for text in [
            ".extern .func f;",
            ".func .attribute(.unified(1,2)) f () { ( }",
        ] {
            let signature = Signature::of(text);
            assert!(signature.results.is_empty(), "{text}");
            assert!(signature.params.is_empty(), "{text}");
        }
    }
}
