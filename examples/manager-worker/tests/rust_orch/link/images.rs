//! The simulated runtime with images for programs.

use async_trait::async_trait;
use orch_core::{
    model::{PullPolicy, WorkKind, Workload},
    runtime::{Runtime as _, RuntimeCapabilities, RuntimeError, Started, Work},
    testkit::{RuntimeLayer, SimulatedRuntime},
};

/// Runs the image `hang` as the simulated runtime runs the program `hang`, and so on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Images(pub(crate) SimulatedRuntime);

#[async_trait]
impl RuntimeLayer for Images {
    fn below(&self) -> &SimulatedRuntime {
        &self.0
    }

    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::new("images", WorkKind::Image).adopts()
    }

    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        let Workload::Image { image, pull: PullPolicy::IfMissing, .. } = &work.spec.workload else {
            panic!("not an image that is fetched when missing: {work:?}")
        };
        let mut spec = (*work.spec).clone();
        spec.workload = Workload::Program { program: image.clone() };
        self.0.start(&Work { spec: spec.into(), ..work.clone() }).await
    }
}
