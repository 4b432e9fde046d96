use std::collections::HashSet;

use scraper::{Html, Selector};

use super::*;
use crate::report::chart::Chart;
use crate::report::svg::gallery;
use crate::report::table::{Cell, Column, Table};

/// What must not become markup.
const HOSTILE: &str = "</title><script>alert(1)</script> & \"quoted\" \u{1}";

fn table(words: &str) -> Captioned {
    let mut table = Table::new([Column::text(words), Column::number("speed", "tok/s")]);
    table.push([Cell::text(words), Cell::number(27.7, 1)]);
    table.push([Cell::text("nothing"), Cell::Missing]);
    Captioned {
        caption: format!("table of {words}"),
        table,
    }
}

fn section(charts: Vec<Chart>, words: &str) -> Section {
    Section {
        heading: format!("section of {words}"),
        text: vec![words.to_owned()],
        charts,
        tables: vec![table(words), table("others")],
    }
}

/// A page with every kind of chart, and words that must be escaped.
fn page() -> Page {
    let pairs = |words: &str| vec![(format!("name of {words}"), format!("value of {words}"))];
    let part = |words: &str, charts: Vec<Chart>| Part {
        heading: format!("part of {words}"),
        question: format!("question of {words}?"),
        facts: pairs(words),
        not_measured: [
            pairs(words),
            vec![("another".into(), format!("value of {words}"))],
        ]
        .concat(),
        warnings: vec![format!("warning of {words}")],
        sections: vec![section(charts, words), section(gallery::hostile(), "names")],
    };
    Page {
        title: format!("page of {HOSTILE}"),
        overview: Some(table("machines")),
        parts: vec![
            part(HOSTILE, gallery::all()),
            part("more", vec![Chart::default()]),
        ],
    }
}

fn select<'a>(html: &'a Html, selector: &str) -> Vec<scraper::ElementRef<'a>> {
    html.select(&Selector::parse(selector).unwrap()).collect()
}

#[test]
fn the_page_is_html_without_an_error_of_any_parser() {
    let html = Html::parse_document(&page().to_html());
    assert!(html.errors.is_empty(), "{:?}", html.errors);
    // The parser does complain.
    let wrong = Html::parse_document("<!DOCTYPE html><title>a</title><p id=a id=b></b>");
    assert!(!wrong.errors.is_empty());
}

#[test]
fn every_chart_and_table_is_there_with_its_name() {
    let page = page();
    let html = Html::parse_document(&page.to_html());
    let sections = || page.parts.iter().flat_map(|part| &part.sections);
    let charts: Vec<&Chart> = sections().flat_map(|section| &section.charts).collect();
    let text = |element: &scraper::ElementRef| element.text().collect::<String>();
    for class in ["wide", "narrow"] {
        let drawn = select(&html, &format!("figure .{class} svg"));
        assert_eq!(drawn.len(), charts.len());
        for (svg, chart) in drawn.iter().zip(&charts) {
            let title = svg
                .select(&Selector::parse("title").unwrap())
                .next()
                .unwrap();
            assert_eq!(text(&title), chart.title);
        }
    }
    let titles: Vec<_> = select(&html, "figcaption strong")
        .iter()
        .map(text)
        .collect();
    let expected: Vec<_> = charts.iter().map(|chart| chart.title.clone()).collect();
    assert_eq!(titles, expected);
    let tables = sections()
        .map(|section| section.tables.len())
        .sum::<usize>();
    assert_eq!(select(&html, ".scroll > table").len(), tables + 1);
    let cells: Vec<_> = select(&html, "td").iter().map(text).collect();
    assert!(cells.contains(&"27.7".to_owned()) && cells.contains(&"\u{2013}".to_owned()));
}

#[test]
fn every_id_is_there_once_and_every_reference_leads_to_one() {
    let html = Html::parse_document(&page().to_html());
    let attributes = |name: &str| -> Vec<String> {
        let with = select(&html, &format!("[{name}]")).into_iter();
        with.map(|element| element.attr(name).unwrap().to_owned())
            .collect()
    };
    let ids = attributes("id");
    let distinct: HashSet<&String> = ids.iter().collect();
    assert_eq!(ids.len(), distinct.len());
    let links = attributes("href");
    assert_eq!(links.len(), 2 + 4);
    let links = links
        .iter()
        .map(|link| link.strip_prefix('#').expect("a place on the page"));
    let labels = attributes("aria-labelledby");
    let labels = labels.iter().flat_map(|ids| ids.split(' '));
    for id in links.chain(labels) {
        assert!(distinct.contains(&id.to_owned()), "{id}");
    }
}

#[test]
fn nothing_comes_from_elsewhere_and_words_stay_words() {
    let text = page().to_html();
    let html = Html::parse_document(&text);
    for element in ["script", "link", "img", "iframe", "object", "base", "form"] {
        assert!(select(&html, element).is_empty(), "{element}");
    }
    for place in ["http:", "https:", "url(", "@import", "javascript:"] {
        assert!(!text.contains(place), "{place}");
    }
    let handlers = html.root_element().descendants();
    let handlers = handlers.filter_map(|node| node.value().as_element());
    for element in handlers {
        assert!(
            element.attrs().all(|(name, _)| !name.starts_with("on")),
            "{element:?}"
        );
    }
    let title = select(&html, "title")[0].text().collect::<String>();
    assert_eq!(
        title,
        format!("page of {HOSTILE}").replace('\u{1}', "\u{fffd}")
    );
    assert!(!text.contains('\u{1}'));
}

#[test]
fn what_failed_and_what_was_not_measured_is_said() {
    let html = Html::parse_document(&page().to_html());
    let text = |selector: &str| -> Vec<String> {
        let found = select(&html, selector).into_iter();
        found.map(|element| element.text().collect()).collect()
    };
    assert!(text(".warning").contains(&"warning of more".to_owned()));
    // What has the same reason stands together.
    assert!(text(".missing dt").contains(&"name of more, another".to_owned()));
    assert!(text(".missing dd").contains(&"value of more".to_owned()));
    assert!(text(".facts dd").contains(&"value of more".to_owned()));
}

#[test]
fn charts_are_files_named_after_section_and_title() {
    let charts = page().charts();
    let names: Vec<&str> = charts.iter().map(|(name, _)| name.as_str()).collect();
    let distinct: HashSet<&&str> = names.iter().collect();
    assert_eq!(names.len(), distinct.len());
    assert!(names.contains(&"section-of-names-near.svg"), "{names:?}");
    assert!(names.contains(&"section-of-names-near-2.svg"), "{names:?}");
    let is_plain =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    for (name, svg) in &charts {
        assert!(
            name.trim_end_matches(".svg").chars().all(is_plain),
            "{name}"
        );
        assert!(svg.starts_with("<svg xmlns="), "{name}");
    }
}
