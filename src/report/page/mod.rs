//! Sections as one HTML page that needs nothing else: no script, no file, no network.
//!
//! It follows the reader's choice of light or dark, prints, and fits a phone: tables scroll in boxes
//! of their own, and charts are drawn once for each width, of which the style shows one.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::grouping::distinct;
use super::section::{Captioned, Section};
use super::svg::{self, NARROW, WIDE, printable};

const STYLE: &str = include_str!("style.css");

/// A page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Its title.
    pub title: String,
    /// What all of it comes from: a row for each part.
    pub overview: Option<Captioned>,
    /// One for each result, in order.
    pub parts: Vec<Part>,
}

/// A result on a page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// What it is: of which file, of which experiment.
    pub heading: String,
    /// What was asked.
    pub question: String,
    /// What ran where: names and values.
    pub facts: Vec<(String, String)>,
    /// What was not measured, and why.
    pub not_measured: Vec<(String, String)>,
    /// What failed, or what else a reader must know before the numbers.
    pub warnings: Vec<String>,
    /// What was found.
    pub sections: Vec<Section>,
}

impl Page {
    /// The page as a file.
    pub fn to_html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) (PreEscaped(svg::STYLE)) }
                }
                body {
                    main {
                        h1 { (self.title) }
                        @if let Some(overview) = &self.overview {
                            (table(overview, "overview"))
                        }
                        @if self.parts.len() > 1 || self.parts.iter().any(|p| p.sections.len() > 1) {
                            (self.contents())
                        }
                        @for (index, part) in self.parts.iter().enumerate() {
                            (part.to_html(&part_id(index)))
                        }
                    }
                }
            }
        };
        printable(&page.into_string())
    }

    /// Every chart as an SVG file: its name, after its section and title, and what it holds.
    pub fn charts(&self) -> Vec<(String, String)> {
        let sections = self.parts.iter().flat_map(|part| &part.sections);
        let charts = sections.flat_map(|section| section.charts.iter().map(move |c| (section, c)));
        let mut files: Vec<(String, String)> = Vec::new();
        for (section, chart) in charts {
            let stem = file_stem(&format!("{} {}", section.heading, chart.title));
            let names = (1..).map(|number| match number {
                1 => format!("{stem}.svg"),
                number => format!("{stem}-{number}.svg"),
            });
            let is_free = |name: &String| files.iter().all(|(taken, _)| taken != name);
            let name = names.into_iter().find(is_free).expect("numbers do not end");
            files.push((name, svg::file(chart)));
        }
        files
    }

    fn contents(&self) -> Markup {
        html! {
            nav aria-label="Contents" {
                ol {
                    @for (index, part) in self.parts.iter().enumerate() {
                        @let id = part_id(index);
                        li {
                            a href={ "#" (id) } { (part.heading) }
                            @if !part.sections.is_empty() {
                                ul {
                                    @for (index, section) in part.sections.iter().enumerate() {
                                        li {
                                            a href={ "#" (section_id(&id, index)) } {
                                                (section.heading)
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Letters and digits as they are in any folder, the rest as hyphens.
fn file_stem(words: &str) -> String {
    let words = words.to_lowercase();
    let words = words.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join("-")
}

fn part_id(index: usize) -> String {
    format!("part-{}", index + 1)
}

fn section_id(part: &str, index: usize) -> String {
    format!("{part}-{}", index + 1)
}

impl Part {
    /// Why something was not measured, and all that was not for that reason.
    fn reasons(&self) -> Vec<(&str, Vec<&str>)> {
        let reasons = distinct(self.not_measured.iter().map(|(_, why)| why.as_str()));
        let of = |reason: &str| {
            let same = self.not_measured.iter().filter(|(_, why)| why == reason);
            same.map(|(what, _)| what.as_str()).collect()
        };
        reasons
            .into_iter()
            .map(|reason| (reason, of(reason)))
            .collect()
    }

    fn to_html(&self, id: &str) -> Markup {
        html! {
            section id=(id) {
                h2 { (self.heading) }
                @if !self.question.is_empty() {
                    p class="question" { (self.question) }
                }
                @for warning in &self.warnings {
                    p class="warning" { (warning) }
                }
                @if !self.facts.is_empty() {
                    dl class="facts" {
                        @for (name, value) in &self.facts {
                            div { dt { (name) } dd { (value) } }
                        }
                    }
                }
                @for (index, section) in self.sections.iter().enumerate() {
                    (part_section(section, &section_id(id, index)))
                }
                @if !self.not_measured.is_empty() {
                    h3 { "Not measured" }
                    dl class="missing" {
                        @for (why, what) in self.reasons() {
                            dt { (what.join(", ")) }
                            dd { (why) }
                        }
                    }
                }
            }
        }
    }
}

fn part_section(section: &Section, id: &str) -> Markup {
    html! {
        section id=(id) {
            h3 { (section.heading) }
            @for paragraph in &section.text {
                p { (paragraph) }
            }
            @for (index, chart) in section.charts.iter().enumerate() {
                @let id = format!("{id}-chart-{}", index + 1);
                figure {
                    figcaption {
                        strong { (chart.title) }
                        @if !chart.description.is_empty() {
                            span { (chart.description) }
                        }
                    }
                    div class="wide" { (svg::inline(chart, WIDE, &format!("{id}-wide"))) }
                    div class="narrow" { (svg::inline(chart, NARROW, &format!("{id}-narrow"))) }
                }
            }
            @for (index, captioned) in section.tables.iter().enumerate() {
                (table(captioned, &format!("{id}-table-{}", index + 1)))
            }
        }
    }
}

/// A table in a box in which it scrolls, with the keyboard too.
fn table(captioned: &Captioned, id: &str) -> Markup {
    html! {
        figure {
            figcaption id=(id) { (captioned.caption) }
            div class="scroll" tabindex="0" { (captioned.table.to_html(id)) }
        }
    }
}

#[cfg(test)]
mod tests;
