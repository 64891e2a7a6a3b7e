//! Which values are looked at, and as what.

use proptest::prelude::*;

use super::*;

#[test]
fn days_are_dates() {
    assert_eq!(
        ["1970-01-01", "2000-02-29", "1899-12-31"],
        [0, 11_016, -25_568].map(date).each_ref().map(String::as_str)
    );
}

#[test]
fn what_lies_within_a_column_is_looked_at() {
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{Float64Array, StringArray, StructArray};
    use arrow_schema::{Field, Schema};
    let texts = |make: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new((0..60).map(|i| Some(make(i))).collect::<StringArray>())
    };
    let mut tags = ListBuilder::new(StringBuilder::new());
    for i in 0..60 {
        tags.values().append_value(format!("user{i}@example.org"));
        tags.append(true);
    }
    let field = Arc::new(Field::new("mail", DataType::Utf8, true));
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "who",
            Arc::new(StructArray::from(vec![(field, texts(&|i| format!("user{i}@example.org")))])),
        ),
        ("tags", Arc::new(tags.finish())),
        (
            "payload",
            texts(&|i| format!("{{\"to\": [{{\"mail\": \"user{i}@example.org\"}}], \"n\": {i}}}")),
        ),
        (
            "essay",
            texts(&|i| {
                format!(
                    "{} write to user{i}@example.org {}",
                    "so it goes on ".repeat(100),
                    "and on ".repeat(100)
                )
            }),
        ),
        ("ratio", Arc::new(Float64Array::from_iter_values((0..60).map(f64::from)))),
    ];
    let schema = Schema::new(
        columns
            .iter()
            .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
            .collect::<Vec<_>>(),
    );
    let batch = RecordBatch::try_new(
        Arc::new(schema),
        columns.into_iter().map(|(_, array)| array).collect(),
    )
    .expect("a batch");
    let (samples, mut sampler) = (Samples::default(), Sampler::default());
    sampler.look(&batch);
    samples.add(sampler);
    let report = super::super::report(&samples.take());
    let said: Vec<(&str, &str)> = report
        .columns
        .iter()
        .map(|column| (column.column.as_str(), column.status.as_str()))
        .collect();
    let expected = [
        ("who.mail", "found"),
        ("tags[]", "found"),
        ("payload", "possible"),
        ("payload.n", "clean"),
        ("payload.to[].mail", "found"),
        ("essay", "possible"),
        ("ratio", "not_looked_at"),
    ];
    assert_eq!(said, expected);
}

proptest! {
    #[test]
    fn parts_make_the_sample_of_the_whole(
        values in prop::collection::vec("[a-z]{1,6}", 0..6000),
        cut in 0.0..1.0,
    ) {
        let cut = (values.len() as f64 * cut) as usize;
        let leaf =
            |sample| Leaf { root: 0, steps: Vec::new(), name: "c".into(), sample: Some(sample) };
        let of = |values: &[String]| Sampler(vec![leaf(Sample::of_texts(values.iter().cloned()))]);
        let sample = |of: &Sampler| of.0[0].sample.clone().expect("there");
        let mut parts = of(&values[..cut]);
        parts.merge(of(&values[cut..]));
        let whole = of(&values);
        prop_assert!(sample(&parts).values == sample(&whole).values);
        prop_assert!(
            sample(&whole).values.len() <= DISTINCT_MAX
                && sample(&whole).seen == values.len() as u64
        );
    }
}
