"""Multiple choice: how a question is written, and what its example keeps."""

from tasks_eval.multiple_choice import choice_example, choice_question


def test_each_letter_follows_its_choice_without_a_blank() -> None:
    question = choice_question("Which?", ["this one", "that one"], ["A", "B"])
    assert "\n- this one=A\n- that one=B\n" in question
    assert question.endswith("Respond only with the letter of the correct answer.")


def test_an_example_keeps_its_letters_its_answer_and_other_fields() -> None:
    example = choice_example("Which?", ["x", "y"], ["1", "2"], "2", subject="sums")
    assert example["messages"][1] == {"role": "assistant", "content": "2"}
    assert (example["letters"], example["answer"], example["subject"]) == (["1", "2"], "2", "sums")
