//! Presence of images, and their pulls.

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use bollard::{
    auth::DockerCredentials, models::CreateImageInfo, query_parameters::CreateImageOptionsBuilder,
};
use futures_util::StreamExt;
use orch_core::{
    model::PullPolicy,
    runtime::{Progress, RuntimeError, RuntimeErrorKind},
};
use tokio::sync::Semaphore;

use crate::{engine::Engine, errors::EngineError, keyed::KeyedLocks, reference::ImageRef};

/// Pulls images, each once at a time, and a bounded number concurrently.
#[derive(Debug)]
pub(crate) struct Puller {
    in_flight: Semaphore,
    images: KeyedLocks<ImageRef>,
    stall_timeout: Duration,
}

impl Puller {
    pub(crate) fn new(in_flight: NonZeroUsize, stall_timeout: Duration) -> Self {
        Self { in_flight: Semaphore::new(in_flight.get()), images: KeyedLocks::default(), stall_timeout }
    }

    /// Ensures that the image is present, as `policy` requires. A caller that needs an image which is being
    /// pulled waits for that pull.
    pub(crate) async fn ensure(
        &self,
        engine: &Engine,
        image: &ImageRef,
        policy: PullPolicy,
        credentials: Option<DockerCredentials>,
        progress: &Progress,
    ) -> Result<(), RuntimeError> {
        let _ours = match self.images.lock(image.clone()).await {
            held if policy == PullPolicy::Always => held,
            held if !is_here(engine, image).await? => held,
            _ => return Ok(()),
        };
        if policy == PullPolicy::Never {
            return Err(RuntimeError::new(
                RuntimeErrorKind::ImageNotFound,
                format!("image {} is not on this node, and its pull policy is never", image.as_str()),
            ));
        }
        let _permit = self.in_flight.acquire().await.map_err(|_| closed())?;
        progress.say(format!("pulling {}", image.as_str()));
        self.pull(engine, image, credentials, progress)
            .await
            .map_err(|error| error.into_pull(&format!("pull image {}", image.as_str())))?;
        progress.say(format!("pulled {}", image.as_str()));
        Ok(())
    }

    async fn pull(
        &self,
        engine: &Engine,
        image: &ImageRef,
        credentials: Option<DockerCredentials>,
        progress: &Progress,
    ) -> Result<(), EngineError> {
        let options = CreateImageOptionsBuilder::default().from_image(image.as_str()).build();
        let news = engine.docker.create_image(Some(options), None, credentials);
        let mut news = engine.watched(news);
        let mut layers = Layers::default();
        loop {
            let stalled = || EngineError::Refused {
                status: 500,
                message: format!("i/o timeout: no progress for {:?}", self.stall_timeout),
            };
            let next = tokio::time::timeout(self.stall_timeout, news.next()).await.map_err(|_| stalled())?;
            match next.transpose()? {
                None => return Ok(()),
                Some(info) => {
                    if let Some(message) = layers.take(&info) {
                        progress.say(message);
                    }
                }
            }
        }
    }
}

pub(crate) fn closed() -> RuntimeError {
    RuntimeError::new(RuntimeErrorKind::Internal, "the runtime was shut down")
}

async fn is_here(engine: &Engine, image: &ImageRef) -> Result<bool, RuntimeError> {
    match engine.ask(engine.docker.inspect_image(image.as_str())).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_status(404) => Ok(false),
        Err(error) => Err(error.into_runtime(&format!("look for image {}", image.as_str()))),
    }
}

/// Progress of a pull, summed over its layers.
#[derive(Debug, Default)]
struct Layers {
    layers: BTreeMap<String, Layer>,
    told: String,
}

#[derive(Debug, Default)]
struct Layer {
    bytes: i64,
    total: i64,
    done: bool,
}

impl Layers {
    /// Applies a progress message of the engine; returns a message when there is a change worth reporting.
    fn take(&mut self, info: &CreateImageInfo) -> Option<String> {
        let status = info.status.as_deref()?;
        let id = info.id.as_ref()?;
        if !matches!(
            status,
            "Pulling fs layer"
                | "Waiting"
                | "Downloading"
                | "Verifying Checksum"
                | "Download complete"
                | "Extracting"
                | "Pull complete"
                | "Already exists"
        ) {
            return None; // about the image as a whole
        }
        let layer = self.layers.entry(id.clone()).or_default();
        layer.done |= matches!(status, "Pull complete" | "Already exists");
        if let (Some(progress), "Downloading") = (&info.progress_detail, status) {
            layer.bytes = progress.current.unwrap_or(layer.bytes);
            layer.total = progress.total.unwrap_or(layer.total);
        }
        let message = self.summary();
        (message != self.told).then(|| {
            self.told.clone_from(&message);
            message
        })
    }

    fn summary(&self) -> String {
        let done = self.layers.values().filter(|layer| layer.done).count();
        let (bytes, total) = self.layers.values().fold((0, 0), |(bytes, total), layer| {
            let bytes_here = if layer.done { layer.total } else { layer.bytes };
            (bytes + bytes_here, total + layer.total)
        });
        let percent = if total > 0 { format!(", {}%", bytes * 100 / total) } else { String::new() };
        format!("{done} of {} layers done{percent}", self.layers.len())
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    fn info(id: &str, status: &str, current: i64, total: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.into()),
            status: Some(status.into()),
            progress_detail: Some(ProgressDetail { current: Some(current), total: Some(total) }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn layers_are_summed_up_and_nothing_is_said_twice() {
        let mut layers = Layers::default();
        let mut said = Vec::new();
        for info in [
            info("1.36", "Pulling from library/busybox", 0, 0),
            info("a", "Pulling fs layer", 0, 0),
            info("b", "Already exists", 0, 0),
            info("a", "Downloading", 10, 100),
            info("a", "Downloading", 10, 100),
            info("a", "Download complete", 0, 0),
            info("a", "Extracting", 5, 100),
            info("a", "Pull complete", 0, 0),
        ] {
            said.extend(layers.take(&info));
        }
        assert_eq!(
            said,
            [
                "0 of 1 layers done",
                "1 of 2 layers done",
                "1 of 2 layers done, 10%",
                "2 of 2 layers done, 100%"
            ]
        );
    }
}
