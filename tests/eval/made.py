"""A small collection of our own, in the form that `askbox eval` reads: ten places, four paragraphs each, a question to each."""

import json
from pathlib import Path

# (paragraph, question, answer); every fourth begins another article.
_PLACES: dict[str, list[tuple[str, str, str]]] = {
    "Harrow Point Lighthouse": [
        (
            (
                "The lighthouse at Harrow Point was built of granite in 1871, after three ships had run aground in one winter. "
                "Its builder, Edda Wexley, carried the first stone up the hill herself."
            ),
            "Who built the lighthouse at Harrow Point?",
            "Edda Wexley",
        ),
        (
            (
                "Its lamp burns rapeseed oil no longer. Since 1962 an electric bulb of 500 watts turns behind a lens as tall as a man, "
                "and ships see it from twenty miles away."
            ),
            "From how far away is the lamp visible to ships?",
            "twenty miles",
        ),
        (
            (
                "The keeper winds the clockwork every nine hours. When fog comes in, a bell is struck twice a minute, "
                "because light alone does not pass through it."
            ),
            "How often is the bell struck in fog?",
            "twice a minute",
        ),
        (
            "Visitors climb 164 steps to the gallery. Dogs are left with the keeper's wife, who keeps a bowl of water at the door.",
            "How many steps lead up to the gallery?",
            "164 steps",
        ),
    ],
    "Orchards of Velm": [
        (
            "In the orchards of Velm pears are grafted in March, on stocks of quince, so that the trees stay low and ladders short.",
            "On what stocks are the pears grafted?",
            "quince",
        ),
        (
            "Late frost is fought with smoke: wet straw is lit between the rows before sunrise, and the warm haze keeps the blossom alive.",
            "What is burnt to protect the blossom from frost?",
            "wet straw",
        ),
        (
            "Pickers are paid by the crate, and each crate holds eighteen kilograms. A good picker fills forty of them in a day.",
            "What is the weight of a crate of fruit?",
            "eighteen kilograms",
        ),
        (
            "What falls by itself becomes cider. The press of the village stands in the old chapel and runs through October nights.",
            "Where does the cider press stand?",
            "old chapel",
        ),
    ],
    "The Copper Mine of Tarn": [
        (
            "Copper was found at Tarn by a goatherd who saw green stains on a cliff. The first shaft went down forty metres in 1754.",
            "Who discovered the copper at Tarn?",
            "goatherd",
        ),
        (
            "Water was the miners' enemy. A wheel of twelve metres, turned by a brook, drove the pumps day and night until steam came.",
            "What drove the pumps before steam?",
            "wheel of twelve metres",
        ),
        (
            "Canaries were kept in every gallery. When one fell silent, everybody left, and nobody came back before the air was tested.",
            "Which birds warned of bad air?",
            "Canaries",
        ),
        (
            "The mine closed in 1931, when the price of the metal halved within a year. Today bats sleep in it, eleven kinds of them.",
            "Why was the mine given up?",
            "price of the metal halved",
        ),
    ],
    "Ferry over the Lune": [
        (
            "The ferry over the Lune is drawn by a chain and takes six minutes. It carries four cars, or one lorry and two bicycles.",
            "How long is the crossing?",
            "six minutes",
        ),
        (
            "At high water no crossing is made: the gauge at the landing must show less than three metres and ten centimetres.",
            "At which level of the gauge does the boat stay at the landing?",
            "three metres and ten centimetres",
        ),
        (
            "Tickets are sold on board by the deckhand, coins only. Children under seven and the midwife travel free.",
            "Who need not buy a ticket?",
            "the midwife",
        ),
        (
            "Its hull is painted with red lead each spring, while the shipyard at Osk renews worn links of the chain.",
            "Which yard repairs the chain?",
            "Osk",
        ),
    ],
    "The Observatory on Mount Kessel": [
        (
            "On Mount Kessel a mirror of 1.9 metres gathers starlight. It was ground in Jena, and came up the road on a timber cart.",
            "What is the size of the telescope's mirror?",
            "1.9 metres",
        ),
        (
            "Astronomers sleep by day behind black curtains. Nobody may slam a door before three in the afternoon.",
            "Until when has it to be quiet in the observatory?",
            "three in the afternoon",
        ),
        (
            "A minor planet, found here in 1908 by Ida Marlow, bears the name of her cat, Bosworth.",
            "After whom was the asteroid named?",
            "Bosworth",
        ),
        (
            "The dome turns on bronze rollers, once round in eleven minutes; ice on its rail is melted with hot brine.",
            "How do they get rid of ice on the rail of the dome?",
            "hot brine",
        ),
    ],
    "Bakery Lindqvist": [
        (
            "The rye leaven of the bakery Lindqvist has been fed every evening since 1893; it survived a fire in a bucket of snow.",
            "How was the sourdough saved from the fire?",
            "bucket of snow",
        ),
        (
            "Loaves go into the oven at 260 degrees, and steam is let in for the first five minutes so that the crust can stretch.",
            "How hot is the oven when the bread is put in?",
            "260 degrees",
        ),
        (
            "On Saturdays there are cardamom buns. Whoever wants a dozen orders before Thursday noon on the slate by the door.",
            "By when must larger orders of buns be placed?",
            "Thursday noon",
        ),
        (
            "What is left at closing goes to the night shelter in Mill Lane, carried by the apprentice in two baskets.",
            "Where does the bakery send unsold bread?",
            "night shelter in Mill Lane",
        ),
    ],
    "Library of Saint Aude": [
        (
            "The library of Saint Aude owns 31,000 volumes and a globe that shows California as an island.",
            "What is wrong on the old globe?",
            "California as an island",
        ),
        (
            "Manuscripts are read on cushions of foam, with pencils only. Gloves are not worn, since clean fingers feel the paper better.",
            "With what may readers write beside a manuscript?",
            "pencils only",
        ),
        (
            "A borrowed book comes back after four weeks. The fine is ten cents a day, but never more than the book is worth.",
            "For how long may a book be borrowed?",
            "four weeks",
        ),
        (
            "In the flood of 1997 the catalogue was saved by freezing its drawers, and drying each card in a vacuum chamber.",
            "How were the wet catalogue cards dried?",
            "vacuum chamber",
        ),
    ],
    "Railway of the High Moor": [
        (
            "Trains of the High Moor run on a gauge of 760 millimetres and climb one metre in every twenty-five.",
            "How wide is the track of the moor railway?",
            "760 millimetres",
        ),
        (
            "In snow the plough goes first, pushed by two engines, and its driver steers by the tops of the telegraph poles.",
            "By what does the driver of the plough find the way?",
            "telegraph poles",
        ),
        (
            "Peat was the railway's freight for ninety years. Since 2004 it carries walkers, and on market days sheep.",
            "What did the trains carry in earlier times?",
            "Peat",
        ),
        (
            "The signal box at Crowle has nineteen levers, all but two of which have been dead since the branch to Ame was lifted.",
            "How many levers of the signal box still work?",
            "all but two",
        ),
    ],
    "Bees of the Town Hall": [
        (
            "Six hives stand on the roof of the town hall. Their honey tastes of lime blossom and wins a medal most years.",
            "Of what does the honey from the roof taste?",
            "lime blossom",
        ),
        (
            "Varroa mites are treated with oxalic acid in December, when there is no brood in which they could hide.",
            "Which remedy is used against mites?",
            "oxalic acid",
        ),
        (
            "A swarm that leaves is not chased through the streets: the fire brigade has a box ready and brings it back by dusk.",
            "Who catches escaped swarms?",
            "fire brigade",
        ),
        (
            "The mayor gets one jar. The rest is sold for the swimming pool, whose heating it has paid for since 2015.",
            "What do the earnings from the honey pay for?",
            "heating",
        ),
    ],
    "Glassworks Ferring": [
        (
            "The furnace at Ferring has not gone out for sixty-one years. It holds four tonnes of molten glass at 1,150 degrees.",
            "How much molten glass is in the furnace?",
            "four tonnes",
        ),
        (
            "Cobalt makes glass blue, gold makes it ruby, and a pinch of manganese takes the green away that iron leaves.",
            "Which metal colours glass red?",
            "gold",
        ),
        (
            "Finished pieces cool for thirty hours in a tunnel, lest they crack. Blowers call it the nursery.",
            "What do the workers call the cooling tunnel?",
            "the nursery",
        ),
        (
            "Apprentices blow marbles for a year before they may touch a vase. Nine of ten marbles go back into the pot.",
            "What do beginners have to make in their first year?",
            "marbles",
        ),
    ],
}
# Nobody could say from the paragraphs, though they are about the same things.
_IMPOSSIBLE = (
    "What did the granite for the lighthouse cost?",
    "Which disease struck the pear trees last year?",
    "Who owns the ferry over the Lune today?",
    "What is the mayor's name?",
    "How many apprentices does the glassworks train?",
)


def write_collection(folder: Path) -> Path:
    """Write the collection into a new folder."""
    folder.mkdir()
    corpus, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for place, paragraphs in _PLACES.items():
        for text, question, answer in paragraphs:
            number = len(corpus)
            assert answer in text
            corpus.append({"_id": f"p{number}", "title": place, "text": text})
            queries.append({"_id": f"q{number}", "text": question, "answers": [answer], "is_impossible": False})
            qrels.append(f"q{number}\tp{number}\t1")
    queries += [
        {"_id": f"x{number}", "text": text, "answers": [], "is_impossible": True}
        for number, text in enumerate(_IMPOSSIBLE)
    ]
    for name, rows in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (folder / "qrels.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return folder
