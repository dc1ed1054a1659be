//! The frame of every page: head, bar with the name and the pages, and the main part. Links are
//! relative, so that a reverse proxy can serve the pages below any path.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A page in the bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageLink {
    /// The status page, `/`.
    Status,
    /// The map, `/map`.
    Map,
}

impl PageLink {
    /// Pages in the order of the bar.
    const ALL: [Self; 2] = [Self::Status, Self::Map];

    fn title(self) -> &'static str {
        match self {
            Self::Status => "Status",
            Self::Map => "Map",
        }
    }

    fn href(self) -> &'static str {
        match self {
            Self::Status => "./",
            Self::Map => "map",
        }
    }
}

/// State of a thing at a glance. Each state has a colour, a shape and a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Glance {
    /// Nothing to do and nothing to report.
    Idle,
    /// It works.
    Good,
    /// It works in part, or recovers without action.
    Warn,
    /// It does not work, or requires action.
    Bad,
}

impl Glance {
    /// Returns the class of the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }

    /// Draws the shape of the state: a tick in a circle, a triangle, a cross in an octagon.
    pub fn icon(self) -> Markup {
        let (shape, mark) = match self {
            Self::Idle => ("M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20z", "M8 12h8"),
            Self::Good => ("M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20z", "m7.5 12.5 3 3 6-7"),
            Self::Warn => ("M12 2 23 21H1z", "M12 9v5m0 3v.5"),
            Self::Bad => ("M8 2h8l6 6v8l-6 6H8l-6-6V8z", "m8.5 8.5 7 7m0-7-7 7"),
        };
        html! {
            svg .icon viewBox="0 0 24 24" aria-hidden="true" fill="none" stroke="currentColor"
                stroke-width="2" stroke-linecap="round" stroke-linejoin="round" {
                path d=(shape) {} path d=(mark) {}
            }
        }
    }

    /// Draws shape and word on a soft background.
    pub fn badge(self, word: &str) -> Markup {
        html! { span class={ "badge " (self.class()) } { (self.icon()) (word) } }
    }
}

/// A page without its main part.
#[derive(Debug)]
pub struct PageShell<'a> {
    /// Title of the window, without the name of the program.
    pub title: &'a str,
    /// Entry of the bar, or `None` for a page outside of it.
    pub current: Option<PageLink>,
    /// Tenant in the bar. Empty where it is not shown.
    pub tenant: &'a str,
    /// State of the service, which the icon of the window shows.
    pub glance: Glance,
    /// Names of style sheets in the assets, after `style.css`.
    pub styles: &'a [&'a str],
    /// Names of scripts in the assets, loaded as modules.
    pub scripts: &'a [&'a str],
    /// Interval at which a browser without scripts loads the page again, seconds.
    pub reload_seconds: Option<u32>,
}

impl PageShell<'_> {
    /// Renders the page around `main`, the content of the element of that name.
    pub fn render(&self, main: &Markup) -> Markup {
        let icon = match self.glance {
            Glance::Idle | Glance::Good => "good",
            Glance::Warn => "warn",
            Glance::Bad => "bad",
        };
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    @if let Some(seconds) = self.reload_seconds {
                        noscript { meta http-equiv="refresh" content=(seconds); }
                    }
                    title { (self.title) " · centiloc-bridge" }
                    link rel="icon" type="image/svg+xml" href={ "assets/icon-" (icon) ".svg" };
                    link rel="stylesheet" href="assets/style.css";
                    @for style in self.styles { link rel="stylesheet" href={ "assets/" (style) }; }
                    @for script in self.scripts {
                        script type="module" src={ "assets/" (script) } {}
                    }
                }
                body {
                    a .skip href="#main" { "Skip to the content" }
                    (self.bar())
                    main #main tabindex="-1" { (main) }
                }
            }
        }
    }

    fn bar(&self) -> Markup {
        html! {
            header .bar {
                div .bar-inner {
                    a .brand href="./" { (brand()) "centiloc-bridge" }
                    @if let Some(current) = self.current {
                        nav aria-label="Pages" {
                            ul {
                                @for link in PageLink::ALL {
                                    li {
                                        a href=(link.href())
                                            aria-current=[(link == current).then_some("page")]
                                            { (link.title()) }
                                    }
                                }
                            }
                        }
                    }
                    div .bar-end #bar-end {
                        @if !self.tenant.is_empty() { span { "Tenant " strong { (self.tenant) } } }
                    }
                }
            }
        }
    }
}

/// Draws a shelf with items.
fn brand() -> Markup {
    PreEscaped(
        "<svg viewBox=\"0 0 24 24\" aria-hidden=\"true\" fill=\"currentColor\">\
         <path d=\"M2 9h20v2H2zM2 20h20v2H2z\"/><rect x=\"4\" y=\"3\" width=\"4\" height=\"5\" rx=\"1\"/>\
         <rect x=\"15\" y=\"2\" width=\"5\" height=\"6\" rx=\"1\"/>\
         <rect x=\"9\" y=\"13\" width=\"6\" height=\"6\" rx=\"1\"/></svg>"
            .to_owned(),
    )
}
