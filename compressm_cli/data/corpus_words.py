"""The words that the embedded corpus is made of."""


def _words(text: str) -> list[str]:
    return text.split()


THINGS = _words("""
house river road lamp stone garden door window table bridge tower market boat field forest mountain letter book
bell ring key box basket coat hat knife rope cup bowl spoon chair wall roof gate well mill barn cart wheel horse
dog cat goat hen cow duck fish bird fox wolf bear apple pear plum cherry nut loaf cake cheese egg soup kettle
fire candle mirror picture song story drum flute coin purse map ship sail oar anchor net hook island harbour
beach cave valley hill meadow lake pond stream path corner street square temple castle palace village town school
shop kitchen cellar attic room bed blanket pillow shirt glove boot belt button needle thread hammer nail saw
ladder broom bucket barrel sack chest drawer shelf clock feather shell flower tree branch leaf root seed berry
mushroom cloud storm shadow star moon lantern banner shield sword crown throne garment parcel ribbon pocket
""")

OTHER_NOUNS = _words("""
child friend neighbour stranger guest brother sister cousin uncle aunt queen king guard teacher pupil traveller
doctor secret question answer promise plan journey dream finger hand shoulder voice word name number
""")

ADJECTIVES = _words("""
old new small large red blue green white black yellow grey brown golden silver wooden broken heavy light long short
round narrow wide deep cold warm dry wet clean dirty quiet loud bright dark soft hard rough smooth sharp plain
strange famous simple clever foolish kind proud gentle brave lazy honest hungry tired happy sad angry careful
empty full rusty dusty shiny crooked straight hollow tall thin thick young ancient early late distant hidden
precious common rare sweet bitter sour fresh stale pale dull steep busy lonely friendly patient curious
""")

TRADES = _words("""
baker miller weaver smith potter tailor carpenter fisher shepherd gardener sailor mason printer painter hunter
brewer cobbler glazier saddler tanner clerk ferryman beekeeper clockmaker innkeeper singer
""")

VERBS = """
carry carries carried
watch watches watched
open opens opened
paint paints painted
clean cleans cleaned
borrow borrows borrowed
return returns returned
repair repairs repaired
count counts counted
follow follows followed
admire admires admired
remember remembers remembered
move moves moved
push pushes pushed
lift lifts lifted
cover covers covered
examine examines examined
polish polishes polished
want wants wanted
need needs needed
fetch fetches fetched
measure measures measured
describe describes described
notice notices noticed
touch touches touched
turn turns turned
hide hides hid
find finds found
bring brings brought
buy buys bought
sell sells sold
take takes took
leave leaves left
hold holds held
keep keeps kept
lose loses lost
see sees saw
draw draws drew
break breaks broke
choose chooses chose
""".strip().splitlines()
"""Base, third person singular and past of each."""

MOTIONS = _words("""
walked ran hurried wandered climbed travelled rode returned marched crept sailed limped danced strolled came went
""")

ADVERBS = _words("""
slowly quickly quietly carefully gladly suddenly often again twice alone together at_once at_last in_silence
without_a_word before_noon after_supper with_great_care in_the_morning at_night every_week for_a_while
""")

PREPOSITIONS = _words(
    "near behind under beside above across through beyond towards past over from inside around"
)

NUMBERS = _words("""
one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty
""")

ORDINALS = _words("first second third fourth fifth sixth seventh")

ONSETS = _words("b br ch d dr f g gl h j k l m n p pl qu r s sh st t th tr v w z")
VOWELS = _words("a e i o u ai ea oo ou")
CODAS = _words("d l ll m n nd ng r rk rt s st th ft ld lm lt rl rth sk nce ve")
TOWN_ENDINGS = _words("ford ham ton by stead mouth bury dale wick field")
WOMEN = _words("a ia ena ora ila etta inda")
MEN = _words("o ric an or eth ald ert")
"""Endings of the names of each."""
