use super::gallery;
use super::*;

#[test]
fn draw_the_gallery() {
    let Some(folder) = std::env::var_os("ONEGRID_GALLERY") else {
        return;
    };
    for (index, chart) in gallery::all().iter().enumerate() {
        std::fs::write(
            std::path::Path::new(&folder).join(format!("{index}.svg")),
            file(chart),
        )
        .unwrap();
    }
}
