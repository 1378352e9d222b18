from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.data.xhtml import Block, blocks, join, parse_xml, story_elements
from polaris.errors import InputError
from polaris.text import count_words

HEAD = '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"><body>'


def body(markup: str):
    root = parse_xml(f"{HEAD}{markup}</body></html>".encode(), where="test.xhtml")
    found = root.find("{*}body")
    assert found is not None
    return found


def text(markup: str) -> str:
    return join(blocks(body(markup)))


def ids(markup: str) -> tuple[list[str | None], list[tuple[str | None, str]]]:
    found, left = story_elements(body(markup))
    return [each.get("id") for each in found], [(each.get("id"), reason) for each, reason in left]


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<p>One\n\t  two.</p> <p>Three.</p>", "One two.\n\nThree."),
        ("<p>A\u00a0b\u2060\u200a\u2060… so\u00adft</p>", "A b… soft"),
        ("<p>‘Well,’\u200a” he said</p>", "‘Well,’” he said"),
        ("<p>Note<a epub:type='noteref' href='#n'>1</a>d.</p>", "Noted."),
        ("<p>Be<span epub:type='z3998:pagebreak' id='p7'>7</span>fore</p>", "Before"),
        ("<p>Be<span role='doc-pagebreak'>7</span>fore</p>", "Before"),
        ("<p>Text.</p><aside epub:type='footnote'><p>Gone.</p></aside>", "Text."),
        ("<p>a</p><hr/><hr/><p>b</p><hr/>", "a\n\n* * *\n\nb"),
        ("<hr/><p>a</p><p>***</p><p>b</p>", "a\n\n* * *\n\nb"),
        (
            "<blockquote epub:type='verse'><p><span>One</span>\n <br/>\n <span>two</span></p></blockquote>",
            "One\ntwo",
        ),
        ("<p>One.</p><section><h3>II</h3><p>Two.</p></section>", "One.\n\nII\n\nTwo."),
        ("<hgroup><h3>I</h3><p epub:type='title'>Dawn</p></hgroup><p>x</p>", "I\nDawn\n\nx"),
        ("<table><tr><td epub:type='z3998:persona'>Ann</td><td>Sit.</td></tr></table>", "Ann: Sit."),
        ("<table><tr><td epub:type='z3998:persona'>Mrs. B.</td><td>Sit.</td></tr></table>", "Mrs. B. Sit."),
        ("<ul><li>one</li><li><p>two</p></li></ul>", "one\n\ntwo"),
        ("<p>a<img alt='x' src='x.png'/>b<script>c</script></p><p hidden=''>d</p>", "ab"),
        ("<div>Loose <em>words</em><p>then</p>after</div>", "Loose words\n\nthen\n\nafter"),
        ("<p><ruby>kan<rt>reading</rt></ruby></p>", "kan"),
        ("<p>one<br/><br/><br/><br/>two</p>", "one\n\ntwo"),
        ("<p> </p><p>\u2060</p>", ""),
    ],
)
def test_text(markup: str, expected: str) -> None:
    assert text(markup) == expected


def test_blocks_tell_headings_bylines_depth_and_ids() -> None:
    found = blocks(
        body(
            "<h2 id='a'>The <a name='b'/>Title</h2><p class='byline'>by A. Writer</p>"
            "<section id='c'><h3>I</h3><p epub:type='z3998:author'>B</p><p>Text.</p></section>"
        )
    )
    assert found == [
        Block("heading", "The Title", "The Title", 0, ("a", "b")),
        Block("byline", "by A. Writer"),
        Block("heading", "I", "I", 1, ("c",)),
        Block("byline", "B", "", 1),
        Block("text", "Text.", "", 1),
    ]


def test_an_author_named_in_an_epigraph_is_no_byline() -> None:
    (block,) = blocks(body("<blockquote><p epub:type='z3998:author'>P</p></blockquote>"))
    assert block.kind == "text"


def test_skip_drops_elements_but_not_what_follows_them() -> None:
    root = body("<div id='x'><p>gone</p></div>kept<p>too</p>")
    assert join(blocks(root, skip=[root[0]])) == "kept\n\ntoo"


def test_stories_are_the_outermost_and_in_a_part_each_on_its_own() -> None:
    story = "<article id='{}' epub:type='se:short-story'><section epub:type='chapter'/></article>"
    assert ids(story.format("a")) == (["a"], [])
    inner = f"<h2>P</h2>{story.format('a')}<div>{story.format('b')}</div>"
    assert ids(f"<section id='p' epub:type='part'>{inner}</section>") == (["a", "b"], [])
    fiction = f"<section id='f' epub:type='z3998:fiction'>{story.format('a')}</section>"
    assert ids(fiction) == (["a"], [])
    assert ids("<section id='f' epub:type='z3998:fiction'><section epub:type='chapter'/></section>") == (
        ["f"],
        [],
    )
    assert ids("<section id='c' role='doc-chapter'><p>t</p></section>") == (["c"], [])
    assert ids("<section id='u'><p>t</p></section>") == ([], [])


def test_matter_and_novellas_are_left_out_by_name() -> None:
    markup = (
        "<article id='n' epub:type='se:novella'><section epub:type='chapter'/></article>"
        "<section id='i' epub:type='imprint'/><section id='f' role='doc-foreword'/>"
        "<article id='s' epub:type='se:short-story'/>"
    )
    assert ids(markup) == (["s"], [("n", "novella"), ("i", "imprint"), ("f", "foreword")])


def test_entities_of_xhtml_are_read_and_others_refused() -> None:
    doctype = (
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd">'
    )
    page = f"{doctype}{HEAD}<p>a&nbsp;&mdash;&hairsp;b{{}}</p></body></html>"
    found = parse_xml(page.format("").encode(), where="t").find("{*}body")
    assert found is not None
    assert join(blocks(found)) == "a —b"
    found = parse_xml(page.format("&nonsense;").encode(), where="t").find("{*}body")
    assert found is not None
    with pytest.raises(InputError, match="unknown entity &nonsense;"):
        blocks(found)


def test_entity_declarations_are_refused_and_bombs_do_not_go_off() -> None:
    with pytest.raises(InputError, match='entry "x".*XML entities'):
        parse_xml(b'<!DOCTYPE h [<!ENTITY a "aha">]><h>&a;</h>', where='entry "x"')
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<!DOCTYPE h [<!ENTITY e0 "0123456789">{levels}]><h x="&e11;">&e11;</h>'
    with pytest.raises(InputError, match='entry "x"'):
        parse_xml(bomb.encode(), where='entry "x"')


def test_external_entities_are_not_fetched(tmp_path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    page = f'<!DOCTYPE h [<!ENTITY a SYSTEM "{secret.as_uri()}">]><h>&a;</h>'
    with pytest.raises(InputError, match="XML entities"):
        parse_xml(page.encode(), where="x")


def test_malformed_names_the_line() -> None:
    with pytest.raises(InputError, match="x.xhtml, line 2: expected well-formed XML"):
        parse_xml(b"<html>\n<p>text</html>", where="x.xhtml")


PARAGRAPHS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"])), max_size=5
)


@given(PARAGRAPHS)
def test_no_word_is_lost_and_spaces_are_normal(paragraphs: list[str]) -> None:
    root = body("")
    for paragraph in paragraphs:
        child = root.makeelement("{http://www.w3.org/1999/xhtml}p", None, None)
        child.text = paragraph
        root.append(child)
    got = join(blocks(root))
    assert not re.search(r"[^\S\n ]|  |\n\n\n|[\u2060\u00ad\u200b\ufeff]", got)
    assert got == got.strip()
    plain = re.sub("[\u2060\u00ad\u200a\u200b\ufeff]", "", "\n".join(paragraphs))
    assert re.findall(r"\w+", got) == re.findall(r"\w+", plain)
    assert count_words(got) == count_words("\n".join(plain.split()))
