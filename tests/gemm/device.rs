//! Runs a problem on the device, D between guard rows.

use std::sync::Arc;

use bytemuck::Pod;
use hadal::device::{Buffer, Context, Stream};
use hadal::gemm::Form;
use hadal::gemm::{
    Format, Gemm, GemmPlan, Groups, Matrix, MatrixMut, Operands, Output, Shape, Tile, View, ViewMut,
};
use half::bf16;

use crate::problem::{Problem, Side, SideScales, UNWRITTEN, same_bits};

const GUARD_ROWS: usize = 3;

/// One device with a stream.
pub(crate) struct Device {
    pub(crate) context: Arc<Context>,
    pub(crate) stream: Stream,
}

/// One side in device memory.
struct Uploaded {
    codes: Buffer<u8>,
    values: Buffer<bf16>,
    scales: Buffer<f32>,
}

impl Device {
    pub(crate) fn open() -> Self {
        let context = Context::new(0).expect("a device");
        let stream = Stream::new(&context).expect("a stream");
        Self { context, stream }
    }

    pub(crate) fn upload<T: Pod>(&self, data: &[T]) -> Buffer<T> {
        Buffer::from_slice(&self.stream, data).expect("device memory")
    }

    /// Runs with the plan's own choice of tile, checks all of D.
    pub(crate) fn check(&self, problem: &Problem) {
        let plan = GemmPlan::new(problem.desc).expect("a plan");
        self.check_plan(problem, plan);
    }

    /// Runs with one tile and cluster, checks all of D.
    pub(crate) fn check_tile(&self, problem: &Problem, tile: Tile, cluster: [u32; 2]) {
        let plan = GemmPlan::with_tile(problem.desc, tile, cluster).expect("a plan");
        self.check_plan(problem, plan);
    }

    fn check_plan(&self, problem: &Problem, plan: GemmPlan) {
        let what = format!(
            "{:?}, N {}, K {}, {:?}, {} in {:?} on {}",
            problem.desc.form,
            problem.desc.n,
            problem.desc.k,
            problem.desc.output,
            plan.tile.kernel,
            plan.cluster,
            plan.grid
        );
        problem.check(&what, &self.run(problem, plan));
    }

    /// D as bits of its elements; guards are checked here.
    pub(crate) fn run(&self, problem: &Problem, plan: GemmPlan) -> Vec<u32> {
        let desc = plan.desc;
        let n = desc.n as usize;
        let guard = vec![UNWRITTEN; GUARD_ROWS * n];
        let all = [&guard[..], &problem.before, &guard].concat();
        let inside = guard.len()..guard.len() + problem.before.len();
        let shape = Shape {
            slots: desc.form.d_slots(),
            rows: desc.form.rows(),
            columns: desc.n,
        };
        let bits: Vec<u32> = if desc.output == Output::Bf16 {
            let narrow: Vec<_> = all.iter().map(|&b| bf16::from_bits(b as u16)).collect();
            let mut d = self.upload(&narrow);
            let view = ViewMut::from(&mut d).slice(inside.clone()).expect("inside");
            self.launch(problem, plan, MatrixMut::bf16(view, shape).expect("D"));
            let read = d.to_vec(&self.stream).expect("executed");
            read.iter().map(|v| v.to_bits().into()).collect()
        } else {
            let wide: Vec<_> = all.iter().map(|&b| f32::from_bits(b)).collect();
            let mut d = self.upload(&wide);
            let view = ViewMut::from(&mut d).slice(inside.clone()).expect("inside");
            self.launch(problem, plan, MatrixMut::f32(view, shape).expect("D"));
            let read = d.to_vec(&self.stream).expect("executed");
            read.iter().map(|v| v.to_bits()).collect()
        };
        let mask = if desc.output == Output::Bf16 {
            0xffff
        } else {
            u32::MAX
        };
        let guard: Vec<u32> = guard.iter().map(|bits| bits & mask).collect();
        same_bits("guard before D", &bits[..inside.start], &guard);
        same_bits("guard after D", &bits[inside.end..], &guard);
        bits[inside].to_vec()
    }

    fn launch(&self, problem: &Problem, plan: GemmPlan, d: MatrixMut<'_>) {
        let mut gemm = Gemm::new(&self.context, plan).expect("a kernel");
        let (a, b) = (self.upload_side(&problem.a), self.upload_side(&problem.b));
        let indices = self.upload(&problem.groups);
        let view = View::from(&indices);
        let mut operands = Operands {
            a: matrix(&problem.a, &a),
            b: matrix(&problem.b, &b),
            groups: match plan.desc.form {
                Form::Contiguous { .. } => Groups::OfRows(view),
                Form::Masked { .. } => Groups::Counts(view),
                Form::Offsets { .. } | Form::KGrouped { .. } => Groups::Offsets(view),
                _ => Groups::None,
            },
            d,
        };
        gemm.run(&self.stream, &mut operands).expect("launched");
        self.stream.synchronize().expect("executed");
    }

    fn upload_side(&self, side: &Side) -> Uploaded {
        let fp8 = side.format != Format::Bf16;
        let codes: Vec<u8> = side
            .codes
            .iter()
            .filter(|_| fp8)
            .map(|&c| c as u8)
            .collect();
        let values = side.codes.iter().filter(|_| !fp8);
        let values: Vec<bf16> = values.map(|&bits| bf16::from_bits(bits)).collect();
        let scales = match &side.scales {
            SideScales::None => Vec::new(),
            SideScales::Rows(values) => side.m_major(values),
            SideScales::Blocks(values) | SideScales::Channel(values) => values.clone(),
        };
        Uploaded {
            codes: self.upload(&codes),
            values: self.upload(&values),
            scales: self.upload(&scales),
        }
    }
}

fn matrix<'a>(side: &Side, uploaded: &'a Uploaded) -> Matrix<'a> {
    let shape = Shape {
        slots: side.slots as u32,
        rows: side.rows as u32,
        columns: side.k as u32,
    };
    let (codes, scales) = (&uploaded.codes, &uploaded.scales);
    let matrix = match side.scales {
        SideScales::None => Matrix::bf16(&uploaded.values, shape),
        SideScales::Rows(_) => Matrix::fp8_rows(side.format, codes, scales, shape),
        SideScales::Blocks(_) => Matrix::fp8_blocks(side.format, codes, scales, shape),
        SideScales::Channel(_) => Matrix::fp8_channel(side.format, codes, scales, shape),
    };
    matrix.expect("an operand")
}
