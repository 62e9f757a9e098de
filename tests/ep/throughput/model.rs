//! What the all-to-all must do, in plain Rust: seeded inputs, and the expected bytes of every output.

use hadal::ep::throughput::{Payload, Reduce, ThroughputDesc};
use half::bf16;

use crate::cases::Routing;

/// One round, or several with the same shape and other contents.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) experts: u32,
    pub(crate) topk: u32,
    pub(crate) hidden: u32,
    pub(crate) payload: Payload,
    pub(crate) reduce: Reduce,
    pub(crate) routing: Routing,
    pub(crate) alignment: u32,
    /// Tokens by rank.
    pub(crate) tokens: Vec<u32>,
    pub(crate) seed: u64,
}

/// Where a row came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) rank: u32,
    pub(crate) token: u32,
    pub(crate) k: u32,
}

impl Case {
    pub(crate) fn ranks(&self) -> u32 {
        self.tokens.len() as u32
    }

    pub(crate) fn desc(&self) -> ThroughputDesc {
        let most = self.tokens.iter().copied().max().unwrap().max(1);
        let shape = [self.ranks(), self.experts, self.topk];
        ThroughputDesc {
            alignment: self.alignment,
            ctas: Some(3),
            timeout: std::time::Duration::from_secs(20),
            ..ThroughputDesc::new(shape, self.hidden, most, self.payload, self.reduce)
        }
    }

    fn random(&self, rank: u32, stream: u64) -> Random {
        let mix = self.seed << 8 ^ u64::from(rank) << 32 ^ stream << 56;
        Random(mix.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// `[tokens][topk]`.
    pub(crate) fn routing(&self, rank: u32) -> Vec<i32> {
        let mut random = self.random(rank, 1);
        let mut all = Vec::new();
        for token in 0..self.tokens[rank as usize] {
            let mut left: Vec<i32> = (0..self.experts.cast_signed()).collect();
            for k in 0..self.topk {
                if left.is_empty() {
                    all.push(-1);
                    continue;
                }
                let even = random.below(left.len() as u64) as usize;
                let drawn = match self.routing {
                    // Halved up to five times: the first experts are far more likely.
                    Routing::Zipf => even >> random.below(6),
                    _ => even,
                };
                let chosen = left.remove(drawn);
                all.push(match self.routing {
                    Routing::AllToOne if k == 0 => self.experts.cast_signed() - 1,
                    Routing::AllToOne => -1,
                    Routing::Drops if random.below(3) == 0 || token % 4 == 3 => -1,
                    _ => chosen,
                });
            }
        }
        all
    }

    /// Bytes of the rows: anything, NaN codes too, for they are only moved.
    pub(crate) fn rows(&self, rank: u32) -> Vec<u8> {
        let mut random = self.random(rank, 2);
        let element = if self.payload == Payload::Fp8 { 1 } else { 2 };
        let words = self.tokens[rank as usize] * self.hidden * element / 8;
        (0..words)
            .flat_map(|_| random.next().to_le_bytes())
            .collect()
    }

    /// Scales of a row.
    pub(crate) fn columns(&self) -> u32 {
        match self.payload {
            Payload::Fp8 => self.hidden.div_ceil(128),
            Payload::Bf16 => 0,
        }
    }

    /// `[tokens][columns]`, any bits.
    pub(crate) fn scales(&self, rank: u32) -> Vec<f32> {
        let mut random = self.random(rank, 3);
        let count = self.tokens[rank as usize] * self.columns();
        (0..count)
            .map(|_| f32::from_bits(random.next() as u32))
            .collect()
    }

    /// `[tokens][topk]`.
    pub(crate) fn weights(&self, rank: u32) -> Vec<f32> {
        let mut random = self.random(rank, 4);
        let count = self.tokens[rank as usize] * self.topk;
        (0..count)
            .map(|_| random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    }

    /// The row that `expert` answers: finite, with subnormals and both zeros.
    pub(crate) fn answer(&self, expert: u32, from: Origin) -> Vec<bf16> {
        let mix = u64::from(expert) << 20 ^ u64::from(from.token) << 8;
        let mut random = self.random(from.rank, 5);
        random.0 ^= mix.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let value = |bits: u16| match bits & 15 {
            0 => bf16::from_bits(bits & 0x807f),
            1 => bf16::from_bits(bits & 0x8000),
            _ => bf16::from_f32(f32::from(bits) / 8192.0 - 4.0),
        };
        let mut bits = 0;
        (0..self.hidden)
            .map(|at| {
                bits = if at % 4 == 0 {
                    random.next()
                } else {
                    bits >> 16
                };
                value(bits as u16)
            })
            .collect()
    }

    /// Rows that `rank` receives, by local expert, in order.
    pub(crate) fn received(&self, rank: u32) -> Vec<Vec<Origin>> {
        let desc = self.desc();
        let first = desc.first_expert(rank);
        let mut all = vec![Vec::new(); desc.local_experts(rank) as usize];
        for source in 0..self.ranks() {
            for (entry, chosen) in (0u32..).zip(self.routing(source)) {
                let local = i64::from(chosen) - i64::from(first);
                let rows = usize::try_from(local)
                    .ok()
                    .and_then(|local| all.get_mut(local));
                if let Some(rows) = rows {
                    rows.push(Origin {
                        rank: source,
                        token: entry / self.topk,
                        k: entry % self.topk,
                    });
                }
            }
        }
        all
    }

    /// Row at which each local expert begins, and the end of the last.
    pub(crate) fn offsets(&self, received: &[Vec<Origin>]) -> Vec<u32> {
        let mut offsets = vec![0];
        for rows in received {
            let end = offsets[offsets.len() - 1] + rows.len() as u32;
            offsets.push(end.next_multiple_of(self.alignment));
        }
        offsets
    }

    /// The rank that owns `expert`.
    fn owner(&self, expert: u32) -> u32 {
        let desc = self.desc();
        let owns = |rank: &u32| {
            let first = desc.first_expert(*rank);
            (first..first + desc.local_experts(*rank)).contains(&expert)
        };
        (0..self.ranks()).find(owns).unwrap()
    }

    /// `[tokens][hidden]` of `rank`: the sum over what the ranks that `counts` accepts have sent.
    pub(crate) fn sums(&self, rank: u32, counts: impl Fn(u32) -> bool) -> Vec<f32> {
        let routing = self.routing(rank);
        let weights = self.weights(rank);
        let mut out = Vec::new();
        for token in 0..self.tokens[rank as usize] {
            let entries: Vec<_> = (0..self.topk)
                .filter_map(|k| {
                    let entry = (token * self.topk + k) as usize;
                    let expert = u32::try_from(routing[entry]).ok()?;
                    Some((expert, weights[entry], Origin { rank, token, k }))
                })
                .filter(|(expert, ..)| counts(self.owner(*expert)))
                .collect();
            out.extend(match self.reduce {
                Reduce::PerExpert => self.weighted(&entries),
                Reduce::PerRank => self.by_rank(entries),
            });
        }
        out
    }

    fn weighted(&self, entries: &[(u32, f32, Origin)]) -> Vec<f32> {
        let mut acc = vec![0.0f32; self.hidden as usize];
        for &(expert, weight, origin) in entries {
            for (acc, value) in acc.iter_mut().zip(self.answer(expert, origin)) {
                *acc = weight.mul_add(value.to_f32(), *acc);
            }
        }
        acc
    }

    fn by_rank(&self, mut entries: Vec<(u32, f32, Origin)>) -> Vec<f32> {
        entries.sort_by_key(|entry| entry.0);
        let mut acc = vec![0.0f32; self.hidden as usize];
        for part in entries.chunk_by(|a, b| self.owner(a.0) == self.owner(b.0)) {
            for (acc, value) in acc.iter_mut().zip(self.weighted(part)) {
                *acc += bf16::from_f32(value).to_f32();
            }
        }
        acc
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

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
        experts: 3,
        topk: 2,
        hidden: 16,
        payload: Payload::Fp8,
        reduce: Reduce::PerRank,
        routing: Routing::AllToOne,
        alignment: 4,
        tokens: vec![2, 1],
        seed: 1,
    };
    assert_eq!(case.routing(0), [2, -1, 2, -1]);
    assert_eq!(case.received(0), [vec![], vec![]]);
    let origin = |rank, token| Origin { rank, token, k: 0 };
    let received = case.received(1);
    assert_eq!(received, [vec![origin(0, 0), origin(0, 1), origin(1, 0)]]);
    assert_eq!(case.offsets(&received), [0, 4]);
    let weight = case.weights(1)[0];
    let row = case.answer(2, origin(1, 0));
    let expected = row
        .iter()
        .map(|y| bf16::from_f32(weight * y.to_f32()).to_f32() + 0.0);
    let expected: Vec<f32> = expected.collect();
    assert_eq!(case.sums(1, |_| true), expected);
    assert_eq!(case.sums(1, |rank| rank != 1), [0.0; 16]);
}
