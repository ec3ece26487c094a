"""Data files: what is read from them, and what is said where they cannot be read."""

import numpy as np
import pytest

from odeopt._data import CLASSIFICATION, REGRESSION, digits, guess_task, labels_like, load_data
from odeopt._table import DataError, read_prediction_file, read_training_file


def csv_file(folder, text, name="data.csv", encoding="utf-8"):
    file = folder / name
    file.write_text(text, encoding=encoding)
    return file


def npz_file(folder, **arrays):
    file = folder / "data.npz"
    np.savez(file, **arrays)
    return file


def message(error) -> str:
    return str(error.value)


NUMBERS = "length,width,kind\n" + "".join(f"{i},{i * i / 4},{'ab'[i % 2]}\n" for i in range(20))


def test_digits_are_split_as_documented():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(x))
    data = digits()
    assert np.array_equal(data.x, x[order[:1400]])
    assert np.array_equal(data.y_test, y[order[1400:]])
    entering = data.preprocessing.inputs(data.x, np.float32)
    assert entering.dtype == np.float32
    assert np.array_equal(entering, (data.x / 16).astype(np.float32))


def test_csv_is_read_with_its_names_and_values(tmp_path):
    arrays = read_training_file(csv_file(tmp_path, NUMBERS))
    assert arrays.input_names == ("length", "width")
    assert arrays.target_name == "kind"
    assert np.array_equal(arrays.x, [[i, i * i / 4] for i in range(20)])
    assert arrays.y.tolist() == ["a", "b"] * 10


def test_csv_with_numbers_for_the_names_of_its_inputs_has_a_header(tmp_path):
    arrays = read_training_file(csv_file(tmp_path, "0,1,target\n1.5,2,a\n3,4,b\n"))
    assert (arrays.input_names, arrays.target_name) == (("0", "1"), "target")


def test_csv_with_byte_order_mark_unicode_names_quotes_and_blank_lines(tmp_path):
    text = 'größe,"weight, kg",цель\n1,2,"x, y"\n\n3,4,ü\n'
    arrays = read_training_file(csv_file(tmp_path, text, encoding="utf-8-sig"))
    assert arrays.input_names == ("größe", "weight, kg")
    assert arrays.target_name == "цель"
    assert arrays.y.tolist() == ["x, y", "ü"]


@pytest.mark.parametrize(
    ("y", "task"),
    [
        (np.array(["a", "b", "a"]), CLASSIFICATION),
        (np.array([0.0, 1.0] * 10), CLASSIFICATION),
        (np.arange(20.0), REGRESSION),
        (np.arange(21.0).repeat(10), REGRESSION),
        (np.array([0.5, 1.0] * 10), REGRESSION),
        (np.ones((20, 2)), REGRESSION),
    ],
)
def test_task_is_guessed_from_the_targets(y, task):
    assert guess_task(y) == task


def test_split_keeps_a_fifth_for_testing_and_depends_on_the_seed_alone(tmp_path):
    file = npz_file(tmp_path, x=np.arange(50.0)[:, None], y=np.arange(50.0) / 8)
    first, again, other = load_data(file, "auto", 1), load_data(file, "auto", 1), load_data(file, "auto", 2)
    assert (len(first.x), len(first.x_test)) == (40, 10)
    assert sorted([*first.x[:, 0], *first.x_test[:, 0]]) == list(range(50))
    assert np.array_equal(first.x_test, again.x_test)
    assert not np.array_equal(first.x_test, other.x_test)
    assert np.array_equal(first.y * 8, first.x[:, 0])


def test_test_set_of_the_file_is_taken(tmp_path):
    file = npz_file(tmp_path, x=np.eye(4), y=np.array([0, 1, 0, 1]), x_test=np.ones((2, 4)), y_test=np.array([1, 1]))
    data = load_data(file, "classification", 0)
    assert len(data.x) == 4
    assert np.array_equal(data.x_test, np.ones((2, 4)))


def test_inputs_and_targets_are_standardised_by_the_training_set_alone(tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.normal(1e6, 3.0, (60, 2)), generator.normal(-40.0, 0.1, 60)
    data = load_data(npz_file(tmp_path, x=x[:50], y=y[:50], x_test=x[50:], y_test=y[50:]), "regression", 0)
    entering = data.preprocessing.inputs(data.x, np.float64)
    assert np.allclose(entering.mean(axis=0), 0, atol=1e-7)
    assert np.allclose(entering.std(axis=0), 1)
    leaving = data.preprocessing.targets(data.y, np.float64)
    assert leaving.shape == (50, 1)
    assert np.allclose([leaving.mean(), leaving.std()], [0, 1], atol=1e-7)
    assert np.allclose(data.preprocessing.input_mean, x[:50].mean(axis=0))


@pytest.mark.parametrize("constant", [0.0, 7.0, 0.1, -1e9])
def test_constant_columns_become_zero(tmp_path, constant):
    x = np.column_stack([np.full(30, constant), np.arange(30.0)])
    data = load_data(npz_file(tmp_path, x=x, y=np.full(30, constant) + 0.5), "regression", 0)
    entering = data.preprocessing.inputs(data.x, np.float64)
    assert np.all(np.abs(entering[:, 0]) <= 1e-12 * max(abs(constant), 1))
    assert np.all(np.abs(data.preprocessing.targets(data.y, np.float64)) <= 1e-12 * max(abs(constant), 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b,c\n", "no examples"),
        ("1,2,3\n4,5,6\n", "header line"),
        ("a,b\n1,2\n3\n", "line 3: 1 cells"),
        ("a,b\n1,2\n3,4,5\n", "line 3: 3 cells"),
        ("a,b\n1,2\n,4\n", "line 3, column 'a': the value is missing"),
        ("a,b\nNaN,2\n", "line 2, column 'a': the value is missing"),
        ("a,b\n1,\n", "line 2, column 'b': the value is missing"),
        ("a,b\nred,2\n", "'red' is not a number"),
        ("a,b\ninf,2\n", "'inf' is not finite"),
        ("a,b\n1,inf\n", "'inf' is not finite"),
        ("a,a\n1,2\n", "more than once"),
        ("a;b\n1;2\n", "separated by commas"),
        ('a,b\n1,"2\n', "cannot be read as a CSV file"),
    ],
)
def test_csv_that_cannot_be_used_is_refused_with_the_place(tmp_path, text, expected):
    file = csv_file(tmp_path, text)
    with pytest.raises(DataError) as error:
        read_training_file(file)
    assert expected in message(error)
    assert str(file) in message(error)


def test_csv_in_another_encoding_is_refused(tmp_path):
    file = csv_file(tmp_path, "größe,b\n1,2\n", encoding="latin-1")
    with pytest.raises(DataError, match="UTF-8"):
        read_training_file(file)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"y": np.ones(5)}, "x is missing"),
        ({"x": np.ones((5, 2))}, "y is missing"),
        ({"x": np.ones(5), "y": np.ones(5)}, "x has shape (5,)"),
        ({"x": np.ones((5, 2, 2)), "y": np.ones(5)}, "reshape"),
        ({"x": np.ones((0, 2)), "y": np.ones(0)}, "x has shape (0, 2)"),
        ({"x": np.ones((5, 2)), "y": np.ones(4)}, "y has shape (4,) with 5 examples"),
        ({"x": np.ones((5, 2)), "y": np.ones((5, 1, 1))}, "y has shape (5, 1, 1)"),
        ({"x": np.array([[np.nan, 1.0], [2.0, np.inf]]), "y": np.ones(2)}, "2 missing or infinite values"),
        ({"x": np.ones((2, 1)), "y": np.array([1.0, np.nan])}, "y holds 1 missing"),
        ({"x": np.ones((2, 1)) * 1j, "y": np.ones(2)}, "complex"),
        ({"x": np.array([["a"], ["b"]]), "y": np.ones(2)}, "real numbers"),
        ({"x": np.ones((2, 1)), "y": np.ones(2) * 1j}, "y has dtype complex"),
        ({"x": np.ones((5, 2)), "y": np.ones(5), "x_test": np.ones((2, 2))}, "only one of x_test and y_test"),
        ({"x": np.ones((5, 2)), "y": np.ones(5), "x_test": np.ones((2, 3)), "y_test": np.ones(2)}, "same shapes"),
    ],
)
def test_npz_that_cannot_be_used_is_refused(tmp_path, arrays, expected):
    with pytest.raises(DataError) as error:
        read_training_file(npz_file(tmp_path, **arrays))
    assert expected in message(error)


def test_npz_with_pickled_objects_is_not_executed(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    file = tmp_path / "data.npz"
    np.savez(file, x=np.array([[Harm()]], dtype=object), y=np.ones(1))
    with pytest.raises(DataError, match="without arrays of objects"):
        read_training_file(file)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 torn off"])
def test_damaged_npz_is_refused(tmp_path, content):
    file = tmp_path / "data.npz"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz"):
        read_training_file(file)


def test_missing_file_folder_and_unknown_extension_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_training_file(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is not a file"):
        read_training_file(tmp_path / "folder.csv")
    with pytest.raises(DataError, match=r"\.xlsx"):
        read_training_file(csv_file(tmp_path, "a,b", name="data.xlsx"))


@pytest.mark.parametrize(
    ("arrays", "task", "expected"),
    [
        ({"x": np.ones((9, 1)), "y": np.array(list("abcabcabc"))}, "regression", "'a'"),
        (
            {"x": np.ones((9, 1)), "y": np.arange(9) / 2},
            "classification",
            "example 1 (counted from 0) is 0.5 and not a label",
        ),
        ({"x": np.ones((9, 1)), "y": np.ones((9, 2))}, "classification", "are not labels"),
        ({"x": np.ones((9, 1)), "y": np.array(list("aaaaaaaaa"))}, "auto", "at least two classes"),
        ({"x": np.ones((4, 1)), "y": np.arange(4) / 2}, "auto", "4 examples; expected at least 5"),
        ({"x": np.full((9, 1), 1e308), "y": np.arange(9) / 2}, "auto", "too large"),
    ],
)
def test_data_that_do_not_fit_the_task_are_refused(tmp_path, arrays, task, expected):
    with pytest.raises(DataError) as error:
        load_data(npz_file(tmp_path, **arrays), task, 0)
    assert expected in message(error)


TEST_SET = {"x": np.ones((6, 1)), "y": np.array([-1, 1] * 3), "x_test": np.ones((3, 1))}


@pytest.mark.parametrize(
    ("y_test", "expected"),
    [
        (np.array([1, -1, 10]), "1 label that no training example has, the first at example 2 (counted from 0): 10"),
        (np.array([1, -2, 10]), "2 labels that no training example has, the first at example 1 (counted from 0): -2"),
        (np.array([1, -1, np.nan]), "1 missing or infinite values, the first at example 2 (counted from 0)"),
        (np.array([1, -1, 0.5]), "the target of example 2 (counted from 0) is 0.5 and not a label"),
        (np.array([1, 2.0**53, 0.5]), "the target of example 1 (counted from 0) is 9007199254740992.0 and not a label"),
    ],
)
def test_label_that_cannot_be_learnt_is_named_with_its_place(tmp_path, y_test, expected):
    with pytest.raises(DataError) as error:
        load_data(npz_file(tmp_path, **TEST_SET, y_test=y_test), "classification", 0)
    assert expected in message(error)


def test_negative_whole_numbers_are_classes(tmp_path):
    data = load_data(npz_file(tmp_path, **TEST_SET, y_test=np.array([1, -1, 1])), "classification", 0)
    assert data.preprocessing.classes == (-1, 1)


def test_file_to_predict_may_lack_the_target_and_have_its_columns_in_any_order(tmp_path):
    file = csv_file(tmp_path, "width,kind,length\n1,a,2\n3,b,4\n")
    arrays = read_prediction_file(file, 2, ("length", "width"), "kind")
    assert np.array_equal(arrays.x, [[2, 1], [4, 3]])
    assert arrays.y.tolist() == ["a", "b"]
    bare = read_prediction_file(csv_file(tmp_path, "length,width\n1,2\n"), 2, ("length", "width"), "kind")
    assert bare.y is None


def test_file_to_predict_without_known_names_goes_by_position(tmp_path):
    assert read_prediction_file(csv_file(tmp_path, "p,q\n1,2\n"), 2, None, None).y is None
    assert read_prediction_file(csv_file(tmp_path, "p,q,r\n1,2,3\n"), 2, None, None).y.tolist() == [3]


def test_file_to_predict_that_does_not_fit_the_model_is_refused(tmp_path):
    with pytest.raises(DataError, match="lacks the column 'width'"):
        read_prediction_file(csv_file(tmp_path, "length,breadth\n1,2\n"), 2, ("length", "width"), "kind")
    with pytest.raises(DataError, match="has 4 columns"):
        read_prediction_file(csv_file(tmp_path, "a,b,c,d\n1,2,3,4\n"), 2, None, None)
    with pytest.raises(DataError, match="takes 3 inputs"):
        read_prediction_file(npz_file(tmp_path, x=np.ones((2, 2))), 3, None, None)


def test_labels_are_compared_in_the_kind_of_the_classes(tmp_path):
    assert labels_like(tmp_path, np.array([1.0, 2.0]), (1, 2)).dtype == np.int64
    assert labels_like(tmp_path, np.array([1.0, 2.0]), ("1", "2", "b")).tolist() == ["1", "2"]
    with pytest.raises(DataError, match="classes of the model"):
        labels_like(tmp_path, np.array(["a"]), (1, 2))


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (np.array([2.0, 1.0, 3.0]), (1, 2), r"the target of example 2 \(counted from 0\) is 3, which is no class"),
        (np.array([-1.0, 1.0]), (0, 1), r"the target of example 0 \(counted from 0\) is -1, which is no class"),
        (np.array(["a", "B"]), ("a", "b"), r"the target of example 1 .* is 'B', which is no class .* are a, b\. "),
    ],
)
def test_labels_that_are_no_class_of_the_model_are_refused(tmp_path, labels, classes, expected):
    with pytest.raises(DataError, match=expected):
        labels_like(tmp_path, labels, classes)
