//! What the all-to-all must do, in plain Rust: seeded inputs, and the expected bytes of every output.

use hadal::ep::latency::{LatencyDesc, Payload};
use hadal_reference::blocks::{Format, Scaling, quantise_rows};
use half::bf16;

/// How tokens choose experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routing {
    /// Different experts, drawn evenly; as many as there are, the rest dropped.
    Spread,
    /// As `Spread`, but few experts get most tokens.
    Zipf,
    /// As `Spread`, then each entry is dropped with probability 1/3.
    Holes,
    /// Every entry is dropped.
    Nothing,
    /// Choice 0 is this expert for every token; the others are dropped.
    One(u32),
}

/// A sequence of rounds.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) ranks: u32,
    pub(crate) experts: u32,
    pub(crate) topk: u32,
    pub(crate) hidden: u32,
    pub(crate) payload: Payload,
    /// What travels back.
    pub(crate) combine: Payload,
    pub(crate) routing: Routing,
    /// Tokens by rank; a later round rotates them by one rank.
    pub(crate) tokens: Vec<u32>,
    pub(crate) rounds: u64,
    pub(crate) seed: u64,
    /// Room for just the most rows that an expert gets in any round, instead of what always suffices.
    pub(crate) tight: bool,
}

impl Case {
    pub(crate) fn desc(&self) -> LatencyDesc {
        let most = self.tokens.iter().copied().max().unwrap().max(1);
        LatencyDesc {
            ranks: self.ranks,
            experts: self.experts,
            topk: self.topk,
            hidden: self.hidden,
            max_tokens: most,
            payload: self.payload,
            combine: self.combine,
            max_rows: self.tight.then(|| self.most_rows()),
            ctas: Some(3),
            timeout: std::time::Duration::from_secs(20),
        }
    }

    /// Most rows of any expert in any round, at least one.
    fn most_rows(&self) -> u32 {
        let mut most = 1;
        for round in 0..self.rounds {
            let mut rows = vec![0; self.experts as usize];
            for rank in 0..self.ranks {
                for chosen in self.routing(round, rank) {
                    let rows = usize::try_from(chosen).ok().and_then(|at| rows.get_mut(at));
                    if let Some(rows) = rows {
                        *rows += 1;
                        most = most.max(*rows);
                    }
                }
            }
        }
        most
    }

    /// Tokens of `rank` in `round`.
    pub(crate) fn tokens(&self, round: u64, rank: u32) -> u32 {
        self.tokens[(rank as usize + round as usize) % self.tokens.len()]
    }

    fn random(&self, round: u64, rank: u32, stream: u64) -> Random {
        let mix = self.seed ^ round << 40 ^ u64::from(rank) << 32 ^ stream << 56;
        Random(mix.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// `[tokens][topk]`.
    pub(crate) fn routing(&self, round: u64, rank: u32) -> Vec<i32> {
        let mut random = self.random(round, rank, 1);
        let mut all = Vec::new();
        for _ in 0..self.tokens(round, rank) {
            let mut experts: Vec<i32> = (0..self.experts.cast_signed()).collect();
            for k in 0..self.topk {
                all.push(match self.routing {
                    Routing::Nothing => -1,
                    Routing::One(expert) if k == 0 => expert.cast_signed(),
                    Routing::One(_) => -1,
                    Routing::Spread | Routing::Zipf | Routing::Holes if experts.is_empty() => -1,
                    Routing::Zipf => {
                        let drawn = random.below(experts.len() as u64) as usize;
                        // Halved up to five times: the first experts are far more likely.
                        experts.remove(drawn >> random.below(6))
                    }
                    Routing::Spread | Routing::Holes => {
                        let drawn = random.below(experts.len() as u64) as usize;
                        let chosen = experts.swap_remove(drawn);
                        let hole = self.routing == Routing::Holes && random.below(3) == 0;
                        if hole { -1 } else { chosen }
                    }
                });
            }
        }
        all
    }

    /// Bytes of the rows `[tokens][payload bytes]`: anything, NaN codes too, for they are only moved.
    pub(crate) fn rows(&self, round: u64, rank: u32) -> Vec<u8> {
        let mut random = self.random(round, rank, 2);
        let bytes = u64::from(self.tokens(round, rank)) * self.desc().payload_bytes();
        (0..bytes).map(|_| random.next() as u8).collect()
    }

    /// `[tokens][scales]`, any bits.
    pub(crate) fn scales(&self, round: u64, rank: u32) -> Vec<f32> {
        let mut random = self.random(round, rank, 3);
        let count = self.tokens(round, rank) * self.desc().scales();
        (0..count)
            .map(|_| f32::from_bits(random.next() as u32))
            .collect()
    }

    /// `[tokens][topk]`.
    pub(crate) fn weights(&self, round: u64, rank: u32) -> Vec<f32> {
        let mut random = self.random(round, rank, 4);
        let count = self.tokens(round, rank) * self.topk;
        (0..count)
            .map(|_| random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    }

    /// The row that `expert` answers to (rank, token, k): finite, with subnormals and both zeros.
    pub(crate) fn answer(&self, round: u64, expert: u32, from: Origin) -> Vec<bf16> {
        let mix = u64::from(expert) << 20 ^ u64::from(from.token) << 8 ^ u64::from(from.k);
        let mut random = self.random(round, from.rank, 5);
        random.0 ^= mix.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mut value = || {
            let bits = random.next() as u16;
            match bits & 15 {
                0 => bf16::from_bits(bits & 0x807f),
                1 => bf16::from_bits(bits & 0x8000),
                _ => bf16::from_f32(f32::from(bits) / 8192.0 - 4.0),
            }
        };
        (0..self.hidden).map(|_| value()).collect()
    }

    /// Rows that `rank` receives, by local expert, in order.
    pub(crate) fn received(&self, round: u64, rank: u32) -> Vec<Vec<Origin>> {
        let desc = self.desc();
        let first = desc.first_expert(rank);
        let routings: Vec<_> = (0..self.ranks)
            .map(|source| self.routing(round, source))
            .collect();
        let of_expert = |expert: u32| {
            let mut rows = Vec::new();
            for (source, routing) in (0..).zip(&routings) {
                for (entry, &chosen) in (0u32..).zip(routing) {
                    if chosen == expert.cast_signed() {
                        let (token, k) = (entry / self.topk, entry % self.topk);
                        rows.push(Origin {
                            rank: source,
                            token,
                            k,
                        });
                    }
                }
            }
            rows
        };
        (first..first + desc.local_experts(rank))
            .map(of_expert)
            .collect()
    }

    /// What arrives of an answer: itself, or the products of its codes and scales.
    fn arriving(&self, answer: &[bf16]) -> Vec<f32> {
        let values: Vec<f32> = answer.iter().map(|value| value.to_f32()).collect();
        match self.combine {
            Payload::Bf16 => values,
            Payload::Fp8 => {
                let format = Format::E4m3;
                let row = quantise_rows(&values, values.len(), format, Scaling::Exact);
                let value = |(at, code): (usize, &u8)| format.decode(*code) * row.scales[at / 128];
                row.codes.iter().enumerate().map(value).collect()
            }
        }
    }

    /// `[tokens][hidden]` of `rank`: the sum over the experts that `counts` accepts.
    pub(crate) fn sums(&self, round: u64, rank: u32, counts: impl Fn(u32) -> bool) -> Vec<f32> {
        let routing = self.routing(round, rank);
        let weights = self.weights(round, rank);
        let mut out = Vec::new();
        for token in 0..self.tokens(round, rank) {
            let mut acc = vec![0.0f32; self.hidden as usize];
            for k in 0..self.topk {
                let entry = (token * self.topk + k) as usize;
                let Ok(expert) = u32::try_from(routing[entry]) else {
                    continue;
                };
                if !counts(expert) {
                    continue;
                }
                let row = self.answer(round, expert, Origin { rank, token, k });
                for (acc, value) in acc.iter_mut().zip(self.arriving(&row)) {
                    *acc = weights[entry].mul_add(value, *acc);
                }
            }
            out.extend(acc);
        }
        out
    }
}

/// Where a row came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) rank: u32,
    pub(crate) token: u32,
    pub(crate) k: u32,
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[test]
fn the_model_by_hand() {
    let case = Case {
        ranks: 2,
        experts: 3,
        topk: 2,
        hidden: 16,
        payload: Payload::Fp8,
        combine: Payload::Bf16,
        routing: Routing::One(2),
        tokens: vec![2, 1],
        rounds: 1,
        seed: 1,
        tight: false,
    };
    assert_eq!(case.routing(0, 0), [2, -1, 2, -1]);
    assert_eq!(case.tokens(1, 0), 1, "the second round rotates");
    assert_eq!(case.received(0, 0), [vec![], vec![]]);
    let origin = |rank, token| Origin { rank, token, k: 0 };
    assert_eq!(
        case.received(0, 1),
        [vec![origin(0, 0), origin(0, 1), origin(1, 0)]]
    );
    let weight = case.weights(0, 1)[0];
    let row = case.answer(0, 2, origin(1, 0));
    let expected: Vec<f32> = row
        .iter()
        .map(|y| weight.mul_add(y.to_f32(), 0.0))
        .collect();
    assert_eq!(case.sums(0, 1, |_| true), expected);
    assert_eq!(case.sums(0, 1, |expert| expert != 2), [0.0; 16]);
}
