//! How the page looks: calm, on a phone and on a desk, by day and by night.

/// Everything, with the colours of both modes at the top. Text has at least 4.5 times the contrast of what is below.
pub(super) const CSS: &str = include_str!("style.css");

/// What stands for a day and for each ending: told by shape, not by colour alone.
pub(super) const SIGNS: &str = "<svg width=\"0\" height=\"0\" class=\"defs\" aria-hidden=\"true\"><defs>\
<rect id=\"day\" width=\"12\" height=\"12\" rx=\"2.5\"/>\
<path id=\"s-good\" class=\"mark\" d=\"M3.2 6.4l2 2 3.8-4.6\"/>\
<path id=\"s-part\" class=\"mark\" d=\"M6 2.8v3.9M6 9.1v.1\"/>\
<path id=\"s-stop\" class=\"mark\" d=\"M4.3 3.6v4.8M7.7 3.6v4.8\"/>\
<path id=\"s-bad\" class=\"mark\" d=\"M3.7 3.7l4.6 4.6M8.3 3.7l-4.6 4.6\"/>\
<path id=\"s-dim\" class=\"mark\" d=\"M3.4 6h5.2\"/>\
</defs></svg>\n";
