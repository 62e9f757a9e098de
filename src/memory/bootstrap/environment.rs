//! What launchers tell their processes: `torchrun` and its like, Open MPI, Slurm.

use crate::memory::MemoryError;

/// Names of the variables that say who a process is.
struct Launcher {
    rank: &'static str,
    ranks: &'static str,
    local_rank: &'static str,
}

/// In order of preference: under Slurm, Open MPI starts its own ranks, of which Slurm sees one.
const LAUNCHERS: [Launcher; 3] = [
    Launcher {
        rank: "RANK",
        ranks: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
    },
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        ranks: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
    },
    Launcher {
        rank: "SLURM_PROCID",
        ranks: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
    },
];

const MASTER: &str = "MASTER_ADDR";
const PORT: &str = "MASTER_PORT";
const NODES: [&str; 2] = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"];

/// Who a process is, and where rank 0 listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) rank: u32,
    pub(super) ranks: u32,
    pub(super) local_rank: Option<u32>,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Place {
    /// Reads the environment through `variable`.
    pub(super) fn read(variable: &impl Fn(&str) -> Option<String>) -> Result<Self, MemoryError> {
        let launcher = LAUNCHERS
            .iter()
            .find(|l| variable(l.rank).is_some() && variable(l.ranks).is_some())
            .ok_or(MemoryError::Environment {
                variable: "RANK and WORLD_SIZE",
                value: None,
                expected: "the rank and the number of ranks, as torchrun, Open MPI or Slurm set them",
            })?;
        let host = variable(MASTER)
            .or_else(|| {
                NODES
                    .iter()
                    .find_map(|name| Some(first_node(&variable(name)?)))
            })
            .ok_or(MemoryError::Environment {
                variable: MASTER,
                value: None,
                expected: "the host of rank 0",
            })?;
        Ok(Self {
            rank: required(variable, launcher.rank)?,
            ranks: required(variable, launcher.ranks)?,
            local_rank: optional(variable, launcher.local_rank)?,
            host,
            port: required(variable, PORT)?,
        })
    }
}

fn optional<T: std::str::FromStr>(
    variable: &impl Fn(&str) -> Option<String>,
    name: &'static str,
) -> Result<Option<T>, MemoryError> {
    let Some(value) = variable(name) else {
        return Ok(None);
    };
    value
        .trim()
        .parse()
        .map(Some)
        .map_err(|_| MemoryError::Environment {
            variable: name,
            value: Some(value),
            expected: "a number in range",
        })
}

fn required<T: std::str::FromStr>(
    variable: &impl Fn(&str) -> Option<String>,
    name: &'static str,
) -> Result<T, MemoryError> {
    optional(variable, name)?.ok_or(MemoryError::Environment {
        variable: name,
        value: None,
        expected: "a number",
    })
}

/// The first host of a Slurm node list such as `gpu[03-05,9]-ib,other`.
fn first_node(list: &str) -> String {
    let mut node = String::new();
    let mut rest = list.trim().chars();
    while let Some(c) = rest.next() {
        match c {
            ',' => break,
            '[' => {
                let inside: String = rest.by_ref().take_while(|&c| c != ']').collect();
                let first = inside.split([',', '-']).next();
                node.push_str(first.unwrap_or_default());
            }
            c => node.push(c),
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Place, MemoryError> {
        let find = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Place::read(&find)
    }

    #[test]
    fn launchers_are_understood() {
        let place = |rank, ranks, local_rank, host: &str| Place {
            rank,
            ranks,
            local_rank,
            host: host.into(),
            port: 7000,
        };
        let torch = [
            ("RANK", "9"),
            ("WORLD_SIZE", "16"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "first"),
            ("MASTER_PORT", "7000"),
        ];
        assert_eq!(read(&torch), Ok(place(9, 16, Some(1), "first")));
        // Open MPI within Slurm: its own ranks, Slurm's nodes.
        let mpi = [
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "1"),
            ("SLURM_JOB_NODELIST", "gpu[03-05,9]-ib,other"),
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("MASTER_PORT", "7000"),
        ];
        assert_eq!(read(&mpi), Ok(place(2, 4, None, "gpu03-ib")));
        let slurm = [
            ("SLURM_PROCID", "3"),
            ("SLURM_NTASKS", "4"),
            ("SLURM_LOCALID", "3"),
            ("SLURM_STEP_NODELIST", "a1,b2"),
            ("MASTER_PORT", "7000"),
        ];
        assert_eq!(read(&slurm), Ok(place(3, 4, Some(3), "a1")));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let named = |variables: &[(&str, &str)]| match read(variables).unwrap_err() {
            MemoryError::Environment {
                variable, value, ..
            } => (variable, value),
            other => panic!("{other}"),
        };
        assert_eq!(named(&[]), ("RANK and WORLD_SIZE", None));
        let ranks = [("RANK", "0"), ("WORLD_SIZE", "2")];
        assert_eq!(named(&ranks), ("MASTER_ADDR", None));
        let host = [&ranks[..], &[("MASTER_ADDR", "h")]].concat();
        assert_eq!(named(&host), ("MASTER_PORT", None));
        let port = [&host[..], &[("MASTER_PORT", "70000")]].concat();
        assert_eq!(named(&port), ("MASTER_PORT", Some("70000".into())));
    }

    #[test]
    fn node_lists_begin_with_their_first_node() {
        for (list, first) in [
            ("node7", "node7"),
            ("node[1-3]", "node1"),
            ("rack[2,4]n[08-09]", "rack2n08"),
            ("", ""),
        ] {
            assert_eq!(first_node(list), first);
        }
    }
}
