"""What parts of a model are called that belong to a label."""

import keras
import pytest
import tensorflow as tf

from models.heads import logits_of, plain_name

NAMES = {"intent": "intent", "intent type": "intent_type", "größe": "gruf6udfe", "_id": "label_id"}
NAMES |= {"领域": "u9886u57df", "a.b-c": "a.b-c", "": "label"}


@pytest.mark.parametrize("label", NAMES)
def test_a_label_of_any_name_can_be_part_of_a_graph(label: str) -> None:
    assert plain_name(label) == NAMES[label]
    x = keras.Input((4,))
    network = keras.Model(x, logits_of(x, {label: 2, "other": 3}))
    found = tf.function(lambda rows: network(rows))(tf.ones((5, 4)))
    assert [tuple(one.shape) for one in found] == [(5, 2), (5, 3)]
    assert network.layers[-2].name == f"{NAMES[label]}_logits"


def test_labels_that_would_be_called_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="a b, a_b are too much alike"):
        logits_of(keras.Input((4,)), {"a b": 2, "a_b": 2})
