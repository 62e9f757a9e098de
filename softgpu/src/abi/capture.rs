//! Stream capture.

#![expect(unsafe_code, reason = "exported C functions")]

use super::graph::dependencies;
use super::pointers::{In, Out};
use crate::driver::capture::{self, Adding, CaptureMode, CaptureStatus};
use crate::driver::context::{DefaultStream, stream};
use crate::driver::graph::{Edge, Graph};
use crate::driver::status::{Result, Status};

const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

fn begin(on: u64, default: DefaultStream, mode: u32) -> Result<()> {
    let (context, stream) = stream(on, default)?;
    capture::begin(&context, &stream, CaptureMode::from_number(mode)?, None)
}

fn end(on: u64, default: DefaultStream, graph: Out<u64>) -> Result<()> {
    let (_, stream) = stream(on, default)?;
    graph.set_if(0);
    let made = capture::end(&stream)?;
    graph.set(made)
}

/// Where the answers of `cuStreamGetCaptureInfo` go.
struct Info {
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<u64>,
    nodes: Out<u64>,
    edges: Out<u64>,
    count: Out<u64>,
}

impl Info {
    fn new(status: Out<u32>, id: Out<u64>) -> Self {
        Self {
            status,
            id,
            graph: Out::at(0),
            nodes: Out::at(0),
            edges: Out::at(0),
            count: Out::at(0),
        }
    }

    fn tell(self, on: u64, default: DefaultStream) -> Result<()> {
        let (context, stream) = stream(on, default)?;
        if self.status.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        capture::refuse_implicit(&context, &stream)?;
        let capture = match capture::status(&stream) {
            CaptureStatus::Active(capture) => capture,
            CaptureStatus::None => return self.status.set(NONE),
            CaptureStatus::Invalidated => return self.status.set(INVALIDATED),
        };
        let (nodes, edges, count) = capture.frontier(&stream);
        self.id.set_if(capture.id);
        self.graph.set_if(capture.graph.handle);
        self.nodes.set_if(nodes);
        self.edges.set_if(edges);
        self.count.set_if(count);
        self.status.set(ACTIVE)
    }
}

fn update(
    (on, default): (u64, DefaultStream),
    (nodes, edges): (In<u64>, In<Edge>),
    count: u64,
    flags: u32,
) -> Result<()> {
    let adding = match flags {
        0 => Adding::Add,
        1 => Adding::Replace,
        _ => return Err(Status::INVALID_VALUE),
    };
    let (_, stream) = stream(on, default)?;
    match capture::status(&stream) {
        CaptureStatus::Active(capture) => {
            let nodes = dependencies(nodes, edges, count, capture.graph.node_count())?;
            capture.set_frontier(&stream, &nodes, adding)
        }
        CaptureStatus::None => Err(Status::ILLEGAL_STATE),
        CaptureStatus::Invalidated => Err(Status::STREAM_CAPTURE_INVALIDATED),
    }
}

entries! { call:
    fn cuStreamBeginCapture | cuStreamBeginCapture_ptsz, default (on: u64) {
        begin(on, default, 0)
    }
    fn cuStreamBeginCapture_v2 | cuStreamBeginCapture_v2_ptsz, default (on: u64, mode: u32) {
        begin(on, default, mode)
    }
    fn cuStreamBeginCaptureToGraph | cuStreamBeginCaptureToGraph_ptsz, default (
        on: u64, graph: u64, nodes: In<u64>, edges: In<Edge>, count: u64, mode: u32
    ) {
        let (context, stream) = stream(on, default)?;
        let graph = Graph::get(graph)?;
        let after = dependencies(nodes, edges, count, graph.node_count())?;
        capture::begin(&context, &stream, CaptureMode::from_number(mode)?, Some((graph, after)))
    }
    fn cuStreamEndCapture | cuStreamEndCapture_ptsz, default (on: u64, graph: Out<u64>) {
        end(on, default, graph)
    }
    fn cuStreamIsCapturing | cuStreamIsCapturing_ptsz, default (on: u64, status: Out<u32>) {
        Info::new(status, Out::at(0)).tell(on, default)
    }
    fn cuStreamGetCaptureInfo | cuStreamGetCaptureInfo_ptsz, default (
        on: u64, status: Out<u32>, id: Out<u64>
    ) {
        Info::new(status, id).tell(on, default)
    }
    fn cuStreamGetCaptureInfo_v2 | cuStreamGetCaptureInfo_v2_ptsz, default (
        on: u64, status: Out<u32>, id: Out<u64>, graph: Out<u64>, nodes: Out<u64>, count: Out<u64>
    ) {
        Info { graph, nodes, count, ..Info::new(status, id) }.tell(on, default)
    }
    fn cuStreamGetCaptureInfo_v3 | cuStreamGetCaptureInfo_v3_ptsz, default (
        on: u64, status: Out<u32>, id: Out<u64>, graph: Out<u64>, nodes: Out<u64>,
        edges: Out<u64>, count: Out<u64>
    ) {
        Info { graph, nodes, edges, count, ..Info::new(status, id) }.tell(on, default)
    }
    fn cuStreamUpdateCaptureDependencies | cuStreamUpdateCaptureDependencies_ptsz, default (
        on: u64, nodes: In<u64>, count: u64, flags: u32
    ) {
        update((on, default), (nodes, In::at(0)), count, flags)
    }
    fn cuStreamUpdateCaptureDependencies_v2 | cuStreamUpdateCaptureDependencies_v2_ptsz, default (
        on: u64, nodes: In<u64>, edges: In<Edge>, count: u64, flags: u32
    ) {
        update((on, default), (nodes, edges), count, flags)
    }
    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        let new = In::<u32>::at(mode.address()).get()?;
        let old = capture::exchange_mode(CaptureMode::from_number(new)?);
        mode.set(old as u32)
    }
}
