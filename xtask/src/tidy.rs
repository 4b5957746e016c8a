//! What lints cannot check: file headers, the direction of dependencies, links, stray words.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Each crate with those of ours that it may depend on, tests aside.
const MAY_DEPEND_ON: [(&str, &[&str]); 8] = [
    ("weir-columns", &[]),
    ("weir-filter", &["weir-columns"]),
    ("weir-storage", &["weir-columns"]),
    ("weir-engine", &["weir-columns", "weir-filter", "weir-storage"]),
    ("weir-server", &["weir-columns", "weir-filter", "weir-storage", "weir-engine"]),
    ("weir-sql-tests", &["weir-columns", "weir-filter", "weir-storage", "weir-engine", "weir-server"]),
    ("weir-benches", &["weir-columns", "weir-filter", "weir-storage", "weir-engine", "weir-server"]),
    ("weir-xtask", &[]),
];

/// Libraries that a crate must not know, directly.
const MUST_NOT_KNOW: [(&str, &[&str]); 4] = [
    ("weir-columns", &["datafusion", "tokio", "tonic", "sqlparser"]),
    ("weir-filter", &["datafusion", "tokio", "tonic", "sqlparser", "memmap2"]),
    ("weir-storage", &["datafusion", "datafusion-physical-expr", "tokio", "tonic", "sqlparser"]),
    ("weir-engine", &["tonic", "prost", "clap", "arrow-flight"]),
];

/// Runs all checks and lists every finding.
pub(crate) fn run() -> Result<()> {
    let root = root()?;
    let files = tracked_files(&root)?;
    let mut findings = Vec::new();
    check_headers(&root, &files, &mut findings)?;
    check_links(&root, &files, &mut findings)?;
    check_unsafe(&root, &files, &mut findings)?;
    check_dependencies(&root, &mut findings)?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy found {} faults", findings.len());
    }
    Ok(())
}

/// Returns the folder of the workspace.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(Path::to_path_buf).context("xtask lies in the workspace")
}

fn tracked_files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    let text = String::from_utf8(output.stdout).context("git lists file names in UTF-8")?;
    Ok(text.lines().map(PathBuf::from).filter(|file| root.join(file).is_file()).collect())
}

fn with_extension<'a>(files: &'a [PathBuf], extension: &'a str) -> impl Iterator<Item = &'a PathBuf> {
    files.iter().filter(move |file| file.extension().is_some_and(|found| found == extension))
}

fn check_headers(root: &Path, files: &[PathBuf], findings: &mut Vec<String>) -> Result<()> {
    for file in with_extension(files, "rs") {
        let text = fs::read_to_string(root.join(file))?;
        if !text.starts_with("//!") {
            findings.push(format!("{}: does not open with `//!` and its purpose", file.display()));
        }
    }
    Ok(())
}

/// Every relative link in a Markdown file leads to a file of the repository.
fn check_links(root: &Path, files: &[PathBuf], findings: &mut Vec<String>) -> Result<()> {
    for file in with_extension(files, "md") {
        let text = fs::read_to_string(root.join(file))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        for link in links(&text) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !root.join(folder).join(target).exists() {
                findings.push(format!("{}: the link to {target} leads nowhere", file.display()));
            }
        }
    }
    Ok(())
}

/// The targets of `[text](target)` outside fenced code.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let mut rest = line;
        while let Some(start) = rest.find("](") {
            rest = &rest[start + 2..];
            if let Some(end) = rest.find(')') {
                found.push(rest[..end].trim());
                rest = &rest[end..];
            }
        }
    }
    found
}

/// `unsafe` code lies in one module only, and in the libraries with which tests make the system fail.
fn check_unsafe(root: &Path, files: &[PathBuf], findings: &mut Vec<String>) -> Result<()> {
    let home = Path::new("storage/src/raw");
    let faults = Path::new("server/tests/faults");
    for file in
        with_extension(files, "rs").filter(|file| !file.starts_with(home) && !file.starts_with(faults))
    {
        let text = fs::read_to_string(root.join(file))?;
        let opens_block = concat!("unsafe", " {");
        if text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(opens_block)) {
            findings.push(format!("{}: unsafe code outside {}", file.display(), home.display()));
        }
    }
    Ok(())
}

fn check_dependencies(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata prints JSON")?;
    for package in metadata["packages"].as_array().context("cargo metadata lists packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = MAY_DEPEND_ON.iter().find(|(owner, _)| *owner == name) else {
            findings.push(format!("{name}: a crate that the layout does not know"));
            continue;
        };
        let forbidden =
            MUST_NOT_KNOW.iter().find(|(owner, _)| *owner == name).map_or(&[][..], |entry| entry.1);
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            let in_tests = dependency["kind"].as_str() == Some("dev");
            if on.starts_with("weir-") && !allowed.contains(&on) && !in_tests {
                findings.push(format!("{name} depends on {on}, against the direction of the layout"));
            }
            if forbidden.contains(&on) && !in_tests {
                findings.push(format!("{name} depends on {on}, which it must not know"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        run().unwrap();
    }

    #[test]
    fn links_inside_code_do_not_count() {
        assert_eq!(links("see [a](b.md) and [c](d.md#e)\n```\n[x](y)\n```\n"), ["b.md", "d.md#e"]);
    }
}
