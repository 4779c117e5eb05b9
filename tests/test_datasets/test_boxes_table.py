"""Tables of boxes and classes."""

import pytest

from mmkd_plugin.datasets.boxes_table import read_boxes_table

HEAD = 'file,width,height,xmin,ymin,xmax,ymax'


@pytest.fixture
def read(tmp_path):
    def read_text(*lines, classes=None):
        path = tmp_path / 'boxes.csv'
        path.write_text('\n'.join(lines), encoding='utf-8')
        return read_boxes_table(str(path), classes)

    return read_text


def test_boxes(read):
    table = read(
        '\ufeff' + HEAD,
        'b.jpg,9,9,1,2,3,4',
        './a.jpg,9,9,0.5,0,3.25,4',
        'b.jpg,9,9,5,5,6,7',
    )
    assert table.boxes == {
        'b.jpg': [[1, 2, 3, 4], [5, 5, 6, 7]],
        'a.jpg': [[0.5, 0, 3.25, 4]],
    }
    assert table.labels is None
    assert table.classes is None


def test_indices(read):
    lines = (
        f'{HEAD},class,class_name',
        'a.jpg,9,9,1,2,3,4,2,wren',
        'b.jpg,9,9,1,2,3,4,0,gull',
        'b.jpg,9,9,1,2,3,4,0,gull',
    )
    table = read(*lines)
    assert table.labels == {'a.jpg': 2, 'b.jpg': 0}
    assert table.classes == ('gull', '1', 'wren')
    assert read(*lines, classes=['x', 'y', 'z']).classes == ('x', 'y', 'z')
    with pytest.raises(ValueError, match=r'has the class 2, .* only 2'):
        read(*lines, classes=['x', 'y'])


@pytest.mark.parametrize('column', ['class', 'class_name'])
def test_names(read, column):
    lines = (
        f'{HEAD},{column}',
        'a.jpg,9,9,1,2,3,4,wren',
        'b.jpg,9,9,1,2,3,4,gull',
    )
    table = read(*lines)
    assert table.labels == {'a.jpg': 1, 'b.jpg': 0}
    assert table.classes == ('gull', 'wren')
    table = read(*lines, classes=['wren', 'owl', 'gull'])
    assert table.labels == {'a.jpg': 0, 'b.jpg': 2}
    assert table.classes == ('wren', 'owl', 'gull')
    with pytest.raises(ValueError, match=r"class 'gull'.*nearest: gulls"):
        read(*lines, classes=['wren', 'gulls'])


@pytest.mark.parametrize(
    'lines, message',
    [
        (['file,xmin,ymin,xmax'], 'no column ymax, its header has file, xmin'),
        ([''], 'no column file, xmin.* has nothing'),
        ([HEAD], 'no line below its header'),
        ([HEAD, 'a.jpg,9,9,1,2,x,4'], r"line 2: .* are \['1', '2', 'x', '4'"),
        ([HEAD, 'a.jpg,9,9,1,2,3'], 'line 2: .*None'),
        ([HEAD, 'a.jpg,9,9,1,2,1,4'], 'line 2: .* the maxima larger'),
        ([HEAD, 'a.jpg,9,9,1,2,inf,4'], 'line 2: xmin'),
        ([HEAD, 'a.jpg,9,9,1,2,nan,4'], 'line 2: xmin'),
        (
            [f'{HEAD},class', 'a,9,9,1,2,3,4,0', 'a,9,9,1,2,3,4,1'],
            "line 3: class of a is '1', but was '0' before",
        ),
        ([f'{HEAD},class', 'a,9,9,1,2,3,4,'], "line 2: class of a is ''"),
        (
            [
                f'{HEAD},class,class_name',
                'a,9,9,1,2,3,4,0,wren',
                'b,9,9,1,2,3,4,0,gull',
            ],
            "line 3: the class 0 is called 'gull', but was 'wren'",
        ),
    ],
)
def test_malformed(read, lines, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(*lines)
    assert 'boxes.csv' in str(caught.value)
