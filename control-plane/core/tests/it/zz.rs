use crate::world::*;
#[test]
fn zz() {
    let t = std::time::Instant::now();
    let yaml: String = (0..9_000).map(|n| document("User", &format!("u{n}"), "{groups: [a, b]}")).collect();
    println!("{} bytes", yaml.len());
    let m = parse(&yaml).unwrap();
    println!("parse {:?}", t.elapsed());
    drop(m);
    let mut w = World::default();
    w.apply(&yaml).unwrap();
    println!("apply {:?}", t.elapsed());
    w.apply(&yaml).unwrap();
    println!("again {:?}", t.elapsed());
    for text in ["[", "- ", "? ", "a: ", "{a: ", "'", "\"", "&", "*", "!", "|", "a\n", "#\n", "---\n", "\t", "- a\n", "%", "{", "a: {b: ", "\n", " ", ",", "[a, ", "a: |\n  "] {
        let t = std::time::Instant::now();
        let big = text.repeat(1_000_000 / text.len());
        let _ = parse(&big);
        println!("{text:?} {:?}", t.elapsed());
        let t = std::time::Instant::now();
        let _ = parse(&format!("a: [{big}"));
        let _ = parse(&format!("a: \"{big}"));
        println!("  {:?}", t.elapsed());
    }
}
