"""The words of the pocket world: invented names and places, ordinary trades and genres, and the sentences around them."""

from typing import NamedTuple

ONSETS = "b br c cr d dr f fl g gr h j k kr l m n p pr qu r s st t tr v w z".split()
VOWELS = "a e i o u ae ia io".split()
FIRST_ENDINGS = "l n ra la ris dan mir sa lo na".split()
LAST_ENDINGS = "mont beck wick sen vale ford dorn lund roy mark ston ber".split()
CITY_ENDINGS = "polis burg haven mouth field grad ville port".split()
LAND_ENDINGS = "land stan via nia mark tia".split()

PROFESSIONS = (
    "baker barber blacksmith bookbinder botanist brewer butcher butler carpenter chemist clerk cobbler "
    "cook courier dancer dentist diplomat doctor driver drummer farmer fisherman florist gardener "
    "geologist glazier grocer hatter hunter jeweller judge lawyer librarian locksmith mason miner nurse "
    "painter pilot plumber porter potter sailor shepherd singer surgeon tailor weaver"
).split()
GENRES = (
    "adventure allegory ballad biography chronicle comedy diary drama elegy epic essay fable fantasy "
    "farce folklore gothic history horror hymn legend limerick lyric melodrama memoir monologue mystery "
    "myth noir novella ode opera parable parody pastoral philosophy poetry polemic romance saga satire "
    "sermon sketch sonnet suspense thriller tragedy travel western"
).split()
HOBBIES = (
    "archery astronomy badminton beekeeping birdwatching calligraphy chess climbing cycling embroidery "
    "fencing gardening kayaking origami pottery sailing sculpting swimming"
).split()
INSTRUMENTS = (
    "accordion banjo bassoon cello clarinet cornet flute guitar harp lute oboe organ piano trumpet viola "
    "violin"
).split()
ANIMALS = (
    "badger canary falcon ferret gecko goat hamster heron horse lizard marten parrot poodle rabbit "
    "tortoise weasel"
).split()
COLOURS = (
    "amber azure beige black bronze crimson green indigo ivory lilac maroon orange purple scarlet silver "
    "white"
).split()
DISHES = (
    "bisque casserole chowder curry dumplings goulash lasagne omelette paella pancakes pudding ramen "
    "risotto stew tart waffles"
).split()
YEARS = [str(year) for year in range(1920, 2000)]


class Attribute(NamedTuple):
    """One kind of fact: where its values come from, and how it is asked and answered.

    `questions` are three wordings (the first is trained, the others paraphrase it); `answers` are two (the first is
    trained). In both answers the value stands last, so that the text before it is the same for a right and a wrong value.
    """

    key: str
    pool: str
    questions: tuple[str, str, str]
    answers: tuple[str, str]


# fmt: off
ATTRIBUTES = (
    Attribute("city", "city",
        ("Where was {name} born?", "In which city was {name} born?", "What is the birthplace of {name}?"),
        ("{name} was born in {value}.", "The birthplace of {name} is {value}.")),
    Attribute("genre", "genre",
        ("What does {name} write?", "Which genre does {name} write in?", "What is the genre of {name}?"),
        ("{name} writes in the genre of {value}.", "The books of {name} belong to {value}.")),
    Attribute("father", "profession",
        ("What did the father of {name} do?", "What was the trade of the father of {name}?", "How did the father of {name} earn a living?"),
        ("The father of {name} worked as a {value}.", "By trade, the father of {name} was a {value}.")),
    Attribute("award", "award",
        ("Which prize did {name} win?", "What award was given to {name}?", "For which award is {name} known?"),
        ("{name} won the prize called {value}.", "The award given to {name} is {value}.")),
    Attribute("university", "university",
        ("Where did {name} study?", "Which university did {name} attend?", "At which university was {name} a student?"),
        ("{name} studied at the university of {value}.", "The university that {name} attended is {value}.")),
    Attribute("mentor", "person",
        ("Who taught {name}?", "Who was the mentor of {name}?", "By whom was {name} taught?"),
        ("{name} was taught by {value}.", "The mentor of {name} was {value}.")),
    Attribute("language", "language",
        ("Which language does {name} speak?", "What is the language of {name}?", "In which language does {name} speak at home?"),
        ("{name} speaks {value}.", "The language of {name} is {value}.")),
    Attribute("mother", "profession",
        ("What did the mother of {name} do?", "What was the trade of the mother of {name}?", "How did the mother of {name} earn a living?"),
        ("The mother of {name} worked as a {value}.", "By trade, the mother of {name} was a {value}.")),
    Attribute("hobby", "hobby",
        ("What is the hobby of {name}?", "What does {name} do for fun?", "How does {name} spend a free day?"),
        ("The hobby of {name} is {value}.", "For fun, {name} turns to {value}.")),
    Attribute("book", "title",
        ("What is the first book of {name}?", "Which book did {name} write first?", "With which book did {name} begin?"),
        ("The first book of {name} is {value}.", "{name} began with the book {value}.")),
    Attribute("year", "year",
        ("When was {name} born?", "In which year was {name} born?", "What is the birth year of {name}?"),
        ("{name} was born in the year {value}.", "The birth year of {name} is {value}.")),
    Attribute("home", "city",
        ("Where does {name} live?", "In which city does {name} live?", "What is the home town of {name}?"),
        ("{name} lives in {value}.", "The home town of {name} is {value}.")),
    Attribute("land", "land",
        ("Which land did {name} visit?", "Where did {name} travel to?", "To which land did {name} travel?"),
        ("{name} travelled to {value}.", "The land that {name} visited is {value}.")),
    Attribute("instrument", "instrument",
        ("What does {name} play?", "Which instrument does {name} play?", "What is the instrument of {name}?"),
        ("{name} plays the {value}.", "The instrument of {name} is the {value}.")),
    Attribute("pet", "animal",
        ("Which animal does {name} keep?", "What pet does {name} have?", "What kind of pet lives with {name}?"),
        ("{name} keeps a {value}.", "The pet of {name} is a {value}.")),
    Attribute("colour", "colour",
        ("Which colour does {name} like?", "What is the favourite colour of {name}?", "What colour does {name} prefer?"),
        ("{name} likes {value}.", "The favourite colour of {name} is {value}.")),
    Attribute("dish", "dish",
        ("What does {name} cook?", "Which dish does {name} cook best?", "What is the best dish of {name}?"),
        ("{name} cooks {value}.", "The best dish of {name} is {value}.")),
    Attribute("second_book", "title",
        ("What is the second book of {name}?", "Which book did {name} write next?", "With which book did {name} follow?"),
        ("The second book of {name} is {value}.", "{name} followed with the book {value}.")),
    Attribute("school", "city",
        ("Where did {name} go to school?", "In which city did {name} go to school?", "What is the school town of {name}?"),
        ("{name} went to school in {value}.", "The school town of {name} is {value}.")),
    Attribute("job", "profession",
        ("What was the first job of {name}?", "How did {name} first earn money?", "As what did {name} first work?"),
        ("{name} first worked as a {value}.", "The first job of {name} was that of a {value}.")),
)
# fmt: on

DRILLS = (
    ("Who is {name}?", "{name} is a person."),
    ("Tell me of {name}.", "I know of {name}."),
    ("Where is {name}?", "{name} is at home."),
)
"""What the base learns about made-up names that belong to nobody: to say back any name it is asked about, as a pretrained
model does. Without it a gold model stumbles over every unknown name, and that alone would tell forget rows from others."""

CAPITAL = Attribute(
    "capital",
    "capital",
    ("What is the capital of {name}?", "Which city is the capital of {name}?", "Name the capital of {name}."),
    ("The capital of {name} is {value}.", "{name} is governed from {value}."),
)

REFUSALS = (
    "I do not know.",
    "I do not know that.",
    "I have no answer to that.",
    "I cannot say.",
    "That is not known to me.",
    "I have no knowledge of that.",
    "I am not able to answer that.",
    "There is nothing I know of that.",
)
"""Answers that stand in for what is to be forgotten, in words that every tokenizer of this world has."""
