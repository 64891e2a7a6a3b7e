//! Files of other writers: codecs, columns that meet, and what is refused by name.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType, TimestampNanosecondType};
use arrow_array::{Int32Array, Int64Array, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{Int96, Int96Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use proptest::prelude::*;

use super::*;

fn write(folder: &Path, name: &str, columns: Vec<(&str, ArrayRef)>, codec: Compression) -> PathBuf {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        columns.into_iter().map(|(_, array)| array).collect(),
    )
    .expect("a batch");
    let path = folder.join(name);
    let properties = WriterProperties::builder().set_compression(codec).build();
    let mut writer =
        ArrowWriter::try_new(File::create(&path).expect("created"), schema, Some(properties))
            .expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
    path
}

fn rows(paths: &[PathBuf]) -> io::Result<(Vec<RecordBatch>, Vec<String>)> {
    let (mut schemas, mut batches) = (Vec::new(), Vec::new());
    let file = |path: &PathBuf| crate::source::File {
        path: path.clone(),
        id: crate::source::path_text(path),
    };
    let files: Vec<crate::source::File> = paths.iter().map(file).collect();
    let mut open = |schema| {
        schemas.push(schema);
        Ok(())
    };
    let mut take = |batch, _| {
        batches.push(batch);
        Ok(())
    };
    let notes = read(&files, (None, None), &CancellationToken::new(), &mut open, &mut take)?;
    assert!(
        schemas.len() == 1
            && batches.iter().all(|batch| batch.schema_ref().fields() == schemas[0].fields())
    );
    Ok((batches, notes))
}

fn refusal(paths: &[PathBuf]) -> String {
    brahman_sidecar::chain(&rows(paths).expect_err("it is refused"))
}

#[test]
fn every_codec_that_writers_use_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let level = "a level";
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::try_new(6).expect(level)),
        Compression::BROTLI(BrotliLevel::try_new(4).expect(level)),
        Compression::ZSTD(ZstdLevel::try_new(3).expect(level)),
        Compression::LZ4_RAW,
        Compression::LZ4,
    ];
    for codec in codecs {
        let path = write(
            folder.path(),
            "a.parquet",
            vec![("n", Arc::new(Int64Array::from_iter_values(0..1000)))],
            codec,
        );
        let (batches, _) = rows(&[path]).expect("read");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1000, "{codec}");
    }
}

#[test]
fn columns_meet_by_name_and_widen() {
    let folder = tempfile::tempdir().expect("a folder");
    let texts = || Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef;
    let one = vec![("id", Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef), ("t", texts())];
    let two = vec![
        ("more", texts()),
        ("t", texts()),
        ("id", Arc::new(Int64Array::from(vec![1 << 40, 4])) as ArrayRef),
    ];
    let paths = [
        write(folder.path(), "1.parquet", one, Compression::SNAPPY),
        write(folder.path(), "2.parquet", two, Compression::SNAPPY),
    ];
    let (batches, notes) = rows(&paths).expect("read");
    let names: Vec<String> =
        batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "t", "more"]);
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().values(), &[1, 2]);
    assert_eq!(batches[1].column(0).as_primitive::<Int64Type>().values(), &[1 << 40, 4]);
    assert_eq!((batches[0].column(2).null_count(), batches[1].column(2).null_count()), (2, 0));
    let (_, swapped) = rows(&[paths[1].clone(), paths[0].clone()]).expect("read");
    assert!(
        swapped[0].contains("1.parquet"),
        "NULL where a file has none of a column is said: {swapped:?}"
    );
    assert!(
        notes.len() == 2
            && notes[0].contains("2.parquet")
            && notes[1].contains("`id` is Int32 and Int64"),
        "{notes:?}"
    );
}

#[test]
fn a_column_keeps_its_type_if_that_holds_what_is_there() {
    let schema = |kind: DataType| Arc::new(Schema::new(vec![Field::new("id", kind, true)]));
    let mut notes = Vec::new();
    let kept = keeping(schema(DataType::Int32), Some(&schema(DataType::Int64)), &mut notes);
    assert_eq!((kept.field(0).data_type(), notes.len()), (&DataType::Int64, 1), "{notes:?}");
    let wider = keeping(schema(DataType::Utf8), Some(&schema(DataType::Int64)), &mut notes);
    assert_eq!((wider.field(0).data_type(), notes.len()), (&DataType::Utf8, 1));
}

#[test]
fn folders_that_are_named_after_a_column_are_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let number = || vec![("id", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)];
    let paths = ["y=2023", "y=2024"].map(|name| {
        std::fs::create_dir(folder.path().join(name)).expect("made");
        write(folder.path(), &format!("{name}/a.parquet"), number(), Compression::SNAPPY)
    });
    let (batches, notes) = rows(&paths).expect("read");
    let years: Vec<i64> = batches
        .iter()
        .flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values().to_vec())
        .collect();
    assert_eq!(years, [2023, 2023, 2024, 2024]);
    assert!(notes.iter().any(|note| note.ends_with("names: y")), "{notes:?}");
}

#[test]
fn what_has_no_common_type_is_refused_by_name_and_before_a_row() {
    let folder = tempfile::tempdir().expect("a folder");
    let number = || vec![("id", Arc::new(Int32Array::from(vec![1])) as ArrayRef)];
    let text = || vec![("id", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)];
    let paths = [
        write(folder.path(), "1.parquet", number(), Compression::SNAPPY),
        write(folder.path(), "2.parquet", text(), Compression::SNAPPY),
    ];
    let why = refusal(&paths);
    assert!(["2.parquet", "`id`", "Utf8", "Int32"].iter().all(|part| why.contains(part)), "{why}");
    let twice = || Arc::new(Int32Array::from(vec![1])) as ArrayRef;
    let path = write(
        folder.path(),
        "3.parquet",
        vec![("a", twice()), ("a", twice())],
        Compression::UNCOMPRESSED,
    );
    assert!(refusal(&[path]).contains("two columns are called `a`"));
}

/// A file with a column of timestamps of 96 bits: Julian days and nanoseconds of them.
fn write_old(folder: &Path, name: &str, values: &[(u32, u64)]) -> PathBuf {
    let path = folder.join(name);
    let schema = parquet::schema::parser::parse_message_type("message m { required int96 a; }")
        .expect("a schema");
    let properties = Arc::new(WriterProperties::builder().build());
    let file = File::create(&path).expect("created");
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema), properties).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    let mut column = group.next_column().expect("next").expect("a column");
    let value = |(day, nanos): &(u32, u64)| {
        let mut value = Int96::new();
        value.set_data((*nanos & 0xffff_ffff) as u32, (*nanos >> 32) as u32, *day);
        value
    };
    column
        .typed::<Int96Type>()
        .write_batch(&values.iter().map(value).collect::<Vec<_>>(), None, None)
        .expect("written");
    column.close().expect("closed");
    group.close().expect("closed");
    writer.close().expect("closed");
    path
}

#[test]
fn timestamps_of_96_bits_are_read_wherever_they_are_or_refused_by_name() {
    use arrow_schema::TimeUnit::{Microsecond, Nanosecond};
    let folder = tempfile::tempdir().expect("a folder");
    // 1970-01-01 with a nanosecond, the same day with a microsecond, and 9999-12-31 at
    // midnight.
    let (fine, near, far) = ((2_440_588, 1), (2_440_588, 1000), (5_373_484, 0));
    let one = write_old(folder.path(), "1.parquet", &[fine, near]);
    let two = write_old(folder.path(), "2.parquet", &[near, far]);
    let three = write_old(folder.path(), "3.parquet", &[near]);
    let (batches, notes) = rows(std::slice::from_ref(&one)).expect("read");
    assert_eq!(
        (batches[0].column(0).data_type(), notes.len()),
        (&DataType::Timestamp(Nanosecond, None), 0)
    );
    assert_eq!(batches[0].column(0).as_primitive::<TimestampNanosecondType>().values(), &[1, 1000]);
    let (batches, notes) = rows(&[three, two.clone()]).expect("read");
    assert_eq!(batches[0].column(0).data_type(), &DataType::Timestamp(Microsecond, None));
    assert_eq!(
        batches[1].column(0).as_primitive::<TimestampMicrosecondType>().values(),
        &[1, 253_402_214_400_000_000]
    );
    assert!(notes[0].contains("`a`") && notes[0].contains("microseconds"), "{notes:?}");
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(super::far(&[two.as_path()], &stop).is_err(), "it is not read to its end");
    assert!(refusal(&[one, two]).contains("column `a`"));
    let beyond = write_old(folder.path(), "4.parquet", &[(u32::MAX / 2, 0)]);
    assert!(refusal(&[beyond]).contains("column `a`"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_it_panic(at in 0.0..1.0f64, byte: u8) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = write(
            folder.path(),
            "a.parquet",
            vec![("n", Arc::new(StringArray::from(vec!["abc", "de", "f"])))],
            Compression::SNAPPY,
        );
        let mut bytes = std::fs::read(&path).expect("there");
        let place = ((bytes.len() - 1) as f64 * at) as usize;
        bytes[place] ^= byte;
        std::fs::write(&path, &bytes).expect("written");
        let _ = rows(&[path]);
    }

    #[test]
    fn a_common_type_is_the_same_from_both_sides(left in 0..11usize, right in 0..11usize) {
        use DataType::{
            Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64,
        };
        let types = [
            Int8,
            Int16,
            Int32,
            Int64,
            UInt8,
            UInt16,
            UInt32,
            UInt64,
            Float32,
            Float64,
            Decimal128(10, 2),
        ];
        prop_assert_eq!(joined(&types[left], &types[right]), joined(&types[right], &types[left]));
    }
}
