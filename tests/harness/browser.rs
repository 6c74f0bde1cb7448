//! A real browser, to see whether a page can be read: whether anything sticks out of it, and whether text lies on text.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{Process, TempDir};

/// What the packages of distributions call it.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// How long it may take to show a page on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Looks at the page in the frame from outside, so that the page is measured as it is, and its policy stays as it is.
const MEASURE: &str = r#"
onload = () => {
  const frame = document.getElementById("page"), page = frame.contentDocument;
  const name = (node) => {
    const element = node.nodeType === 3 ? node.parentElement : node;
    return "<" + element.tagName + " class='" + (element.getAttribute("class") || "") + "'> " +
      JSON.stringify((node.textContent || "").trim().slice(0, 40));
  };
  const look = (width) => {
    frame.style.width = width + "px";
    const said = [];
    if (page.documentElement.scrollWidth > width)
      said.push("the page is " + page.documentElement.scrollWidth + " wide in " + width);
    for (const element of page.body.querySelectorAll("*")) {
      // What is in a drawing is cut at its edges.
      if (element.ownerSVGElement) continue;
      const box = element.getBoundingClientRect();
      if (box.width && (box.left < -0.5 || box.right > width + 0.5)) said.push(name(element) + " sticks out");
      if (element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== "inline" && element.clientWidth)
        said.push(name(element) + " holds more than it is wide");
    }
    const texts = [], walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (!node.textContent.trim() || node.parentElement.closest("svg")) continue;
      const range = page.createRange();
      range.selectNodeContents(node);
      for (const box of range.getClientRects()) texts.push({ node, box });
    }
    texts.sort((a, b) => a.box.top - b.box.top);
    for (let i = 0; i < texts.length; i++)
      for (let j = i + 1; j < texts.length && texts[j].box.top < texts[i].box.bottom; j++) {
        const a = texts[i].box, b = texts[j].box;
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        // Lines of one height may touch.
        if (across > 1 && down > 4) said.push(name(texts[i].node) + " lies on " + name(texts[j].node));
      }
    const small = texts.filter((text) => parseFloat(getComputedStyle(text.node.parentElement).fontSize) < 11);
    for (const text of small) said.push(name(text.node) + " is too small to be read");
    return { width, texts: texts.length, said: said.slice(0, 20) };
  };
  const seen = document.body.dataset.widths.split(" ").map(Number).map(look);
  const found = document.createElement("pre");
  found.id = "found";
  found.textContent = JSON.stringify(seen);
  frame.remove();
  document.body.append(found);
};
"#;

/// A browser of this machine.
#[derive(Debug)]
pub struct Browser {
    program: PathBuf,
    directory: TempDir,
}

/// What was found on a page.
#[derive(Debug, serde::Deserialize)]
pub struct Seen {
    /// How wide it was shown, in pixels.
    pub width: u32,
    /// Pieces of text that can be seen.
    pub texts: usize,
    /// What cannot be read, at most twenty.
    pub said: Vec<String>,
}

impl Browser {
    /// Finds one, or writes a line for the summary of `scripts/test` that says why `test` was skipped.
    pub fn find_or_skip(test: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = NAMES
            .iter()
            .flat_map(|name| std::env::split_paths(&path).map(move |directory| directory.join(name)))
            .find(|program| program.is_file());
        if program.is_none() {
            // Not a macro's output, which the test runner keeps to itself when a test passes.
            let _ = writeln!(
                std::io::stderr(),
                "\nskipped: {test}: there is no browser (apt-get install chromium)"
            );
        }
        Some(Self { program: program?, directory: TempDir::new() })
    }

    /// Shows a page as wide as each of these, in pixels, and tells what cannot be read.
    ///
    /// # Panics
    /// When the browser does not show it.
    pub async fn look(&self, page: &str, widths: &[u32]) -> Vec<Seen> {
        let widths: Vec<String> = widths.iter().map(u32::to_string).collect();
        let quoted = page.replace('&', "&amp;").replace('"', "&quot;");
        let frame = format!(
            "<!DOCTYPE html><meta charset=utf-8><body style='margin:0' data-widths='{}'><script>{MEASURE}</script>\
             <iframe id=page style='border:0;height:900px' srcdoc=\"{quoted}\"></iframe>",
            widths.join(" ")
        );
        let dom = self.run(&frame, &["--window-size=1600,1000", "--dump-dom"]).await;
        let found = dom.split_once("<pre id=\"found\">").and_then(|(_, rest)| rest.split_once("</pre>"));
        let (found, _) = found.unwrap_or_else(|| panic!("the page was not measured: {dom}"));
        let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error}: {found}"))
    }

    /// What a page has become once it was shown: its document.
    ///
    /// # Panics
    /// When the browser does not show it.
    pub async fn dom(&self, page: &str) -> String {
        self.run(page, &["--dump-dom"]).await
    }

    async fn run(&self, page: &str, options: &[&str]) -> String {
        let profile = TempDir::new();
        let file = self.directory.path().join("page.html");
        std::fs::write(&file, page).expect("the directory is ours");
        let mut command = Command::new(&self.program);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.args(options).arg(url(&file)).env("HOME", profile.path());
        let finished = Process::spawn(command).finish(PATIENCE).await;
        assert_eq!(finished.code(), 0, "{}\n{}", self.program.display(), finished.stderr);
        finished.stdout
    }
}

fn url(file: &Path) -> String {
    format!("file://{}", file.display())
}
