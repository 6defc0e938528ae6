//! A real browser, steered through its driver.

use std::{os::unix::process::CommandExt as _, process::Command, time::Duration};

use fantoccini::{Client, ClientBuilder, Locator, elements::Element};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Signal, kill_process_group};
use serde_json::{Value, json};

use super::{PATIENCE, Service, fixture};

/// A headless browser with an empty profile. Needs the fixture `browser` of `cargo xtask test`.
#[derive(Debug)]
pub struct Browser {
    client: Client,
    driver: Service,
}

impl Browser {
    /// Starts a browser and opens an address. `dark` is the scheme of colours that it prefers.
    pub async fn open(url: &str, dark: bool) -> Self {
        let mut driver = Command::new(fixture("ORCH_TEST_WEBDRIVER"));
        driver.arg("--port=0").process_group(0);
        let driver = Service::start(driver, "started successfully on port");
        let port = driver.line().rsplit(' ').next().unwrap().trim_end_matches('.').to_owned();
        // Without these it asks hosts of its maker for updates, which a closed network leaves hanging.
        let mut args = vec![
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,1000",
        ];
        if dark {
            args.push("--blink-settings=preferredColorScheme=0");
        }
        let options =
            json!({ "goog:chromeOptions": { "binary": fixture("ORCH_TEST_BROWSER"), "args": args } });
        let Value::Object(capabilities) = options else { unreachable!("it is an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        let browser = Self { client, driver };
        browser.client.goto(url).await.unwrap();
        browser
    }

    async fn find(&self, css: &str) -> Element {
        self.client.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await.unwrap()
    }

    /// Clicks on the first element of this selector.
    pub async fn click(&self, css: &str) {
        // A refresh of the page may replace an element that was just found.
        while let Err(error) = self.find(css).await.click().await {
            assert!(error.is_stale_element_reference(), "{css}: {error}");
        }
    }

    /// Types into the first element of this selector.
    pub async fn type_into(&self, css: &str, text: &str) {
        self.find(css).await.send_keys(text).await.unwrap();
    }

    /// Answers the question that the page has asked in a dialogue with yes.
    pub async fn confirm(&self) {
        self.client.accept_alert().await.unwrap();
    }

    /// Value of an expression in the page.
    pub async fn value(&self, expression: &str) -> Value {
        self.client.execute(&format!("return {expression}"), Vec::new()).await.unwrap()
    }

    /// Waits until an expression in the page is true.
    pub async fn until(&self, expression: &str) {
        const RETRY_DELAY: Duration = Duration::from_millis(50);
        let holds = async {
            while self.value(&format!("!!({expression})")).await != Value::Bool(true) {
                tokio::time::sleep(RETRY_DELAY).await;
            }
        };
        if tokio::time::timeout(PATIENCE, holds).await.is_err() {
            let text = self.value("document.body.innerText").await;
            panic!("never true: {expression}; the page says {text}");
        }
    }

    /// Loads the page again.
    pub async fn reload(&self) {
        self.client.refresh().await.unwrap();
    }
}

/// A driver that is killed leaves its browser behind, which is in the same group.
impl Drop for Browser {
    fn drop(&mut self) {
        let _ = kill_process_group(self.driver.pid(), Signal::KILL);
    }
}
