"""Structures: the packaged set and its split, batches, neighbours, and the reader of PubChemQCR."""

import gzip
import os
import pickle
import random
from pathlib import Path

import pytest
import torch

from blockzoo.tasks.molecules import pubchemqcr
from blockzoo.tasks.molecules.elements import SYMBOLS, atomic_number
from blockzoo.tasks.molecules.pubchemqcr import HARTREE, PER_BOHR, PubChemQCR, read_record, structures_of
from blockzoo.tasks.molecules.structures import Structure, StructureSet, XTBMolecules, collate, composition, read_frames
from blockzoo.tasks.molecules.xtb import PARTS, XTBSettings


def structure(count=3, cell=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    positions, forces = torch.randn(2, count, 3, generator=generator)
    numbers = torch.tensor([8, 1, 1, 6, 7])[:count]
    pbc = None if cell is None else torch.ones(3, dtype=torch.bool)
    return Structure(positions, numbers, torch.tensor(-1.5 * count, dtype=torch.double), forces, cell, pbc)


def test_elements_are_in_order():
    assert len(SYMBOLS) == 119 and (SYMBOLS[1], SYMBOLS[26], SYMBOLS[79], SYMBOLS[118]) == ("H", "Fe", "Au", "Og")
    assert atomic_number(" cL ") == 17
    with pytest.raises(ValueError, match="'X' is not a chemical element"):
        atomic_number("X")


def test_the_packaged_set_is_what_its_settings_say():
    frames, names = read_frames()
    settings = XTBSettings()
    assert tuple(names) == settings.molecules
    planned = [
        (names.index(m), t, PARTS.index(p)) for m, t, p, _, count in settings.trajectories() for _ in range(count)
    ]
    stored = zip(frames["molecule"].tolist(), frames["temperature"].tolist(), frames["part"].tolist(), strict=True)
    assert list(stored) == planned
    assert len(frames["positions"]) == int(frames["num_atoms"].sum())
    assert torch.isfinite(frames["forces"]).all() and frames["energy"].dtype == torch.double
    # Internal forces of an isolated molecule cancel.
    owner = torch.repeat_interleave(torch.arange(len(frames["num_atoms"])), frames["num_atoms"])
    total = torch.zeros(len(frames["num_atoms"]), 3).index_add(0, owner, frames["forces"])
    assert total.abs().max() < 1e-3


def test_no_test_frame_resembles_a_training_frame_as_neighbours_in_time_do():
    data = XTBMolecules(molecules=["CH3CH2OH"])
    data.setup("fit")

    def shapes(part):
        distances = [torch.cdist(s.positions, s.positions).flatten() for s in data.datasets[part].structures]
        return torch.stack(distances)

    train, test = shapes("train"), shapes("test")
    assert torch.cdist(test, train).min() > 0.05  # Å, over all pairs of atoms


def test_smaller_training_sets_are_parts_of_larger_ones():
    energies = []
    for size in (10, 50):
        data = XTBMolecules(train_size=size)
        data.setup("fit")
        energies.append([float(s.energy) for s in data.datasets["train"].structures])
    assert len(energies[0]) == 10 and energies[0] == energies[1][:10]
    assert {key: len(part) for key, part in data.datasets.items()} == {"train": 50, "val": 360, "test": 720}


def test_wrong_arguments_of_the_packaged_set_are_named():
    with pytest.raises(ValueError, match="'water' is not in the set, which has CH3CH2OH"):
        XTBMolecules(molecules=["water"]).setup("fit")
    with pytest.raises(ValueError, match="train_size=5000 must be from 1 to the 2880 training frames"):
        XTBMolecules(train_size=5000).setup("fit")


def test_a_batch_joins_structures_of_any_size_and_keeps_them_apart():
    cell = 4 * torch.eye(3)
    samples = StructureSet([structure(3), structure(5, cell), structure(1)], cutoff=3.0)
    batch = collate([samples[i] for i in range(3)])
    assert batch["num_atoms"].tolist() == [3, 5, 1] and batch["batch"].tolist() == [0] * 3 + [1] * 5 + [2]
    assert batch["energy"].tolist() == [-4.5, -7.5, -1.5] and batch["index"].tolist() == [0, 1, 2]
    torch.testing.assert_close(batch["cell"], torch.stack([torch.zeros(3, 3), cell, torch.zeros(3, 3)]))
    assert batch["pbc"].tolist() == [[False] * 3, [True] * 3, [False] * 3]
    sender, receiver = batch["edge_index"]
    assert torch.equal(batch["batch"][sender], batch["batch"][receiver])
    assert batch["shifts"].shape == (len(sender), 3) and not batch["shifts"][batch["batch"][sender] != 1].any()
    vectors = batch["positions"][sender] - batch["positions"][receiver] + batch["shifts"] @ cell
    assert vectors.norm(dim=1).max() <= 3.0
    alone = [samples[i]["edge_index"].shape[1] for i in range(3)]
    assert len(sender) == sum(alone) and alone[1] > 20  # images are found


def test_neighbours_are_found_once():
    samples = StructureSet([structure(4)], cutoff=2.0)
    assert samples[0]["edge_index"] is samples[0]["edge_index"]
    assert "edge_index" not in StructureSet([structure(4)])[0]


def test_composition_counts_elements():
    elements, counts = composition([structure(3), structure(5)])
    assert elements.tolist() == [1, 6, 7, 8] and counts.tolist() == [[2, 0, 0, 1], [2, 1, 1, 1]]


def step(energy=-76.4, shift=0.0):
    atoms = [("O", 0.0, 0.0, 0.1), ("H", 0.0, 0.8, -0.5), ("H", 0.0, -0.8, -0.5)]
    return {
        "coordinates": [{"atom": a, "charge": 0.0, "x": x + shift, "y": y, "z": z} for a, x, y, z in atoms],
        "energy": energy,
        "gradient": [{"atom": a, "dx": 0.01, "dy": 0.02, "dz": -0.03} for a, *_ in atoms],
    }


def test_a_record_gives_total_energies_and_forces_in_ev():
    record = {"DFT_1st": [step(), {**step(), "gradient": None}, step(float("nan")), step(-76.5)], "DFT_2nd": None}
    found = structures_of(record, "DFT_1st", "here")
    assert [float(s.energy) for s in found] == pytest.approx([-76.4 * HARTREE, -76.5 * HARTREE], rel=1e-12)
    assert found[0].atomic_numbers.tolist() == [8, 1, 1]
    expected = torch.tensor([-0.01, -0.02, 0.03]) * HARTREE * PER_BOHR
    torch.testing.assert_close(found[0].forces, expected.expand(3, 3))
    assert structures_of(record, "DFT_2nd", "here") == []
    broken = step()
    broken["coordinates"][1]["atom"] = "Xx"
    with pytest.raises(ValueError, match="here, stage hf, step 0: .*'Xx' is not a chemical element"):
        structures_of({"hf": [broken]}, "hf", "here")


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("it_ran",)


@pytest.mark.parametrize("content", [_Evil(), {"DFT_1st": [Path("x")]}, b"not a pickle"])
def test_a_record_that_would_run_code_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    payload = gzip.compress(content if isinstance(content, bytes) else pickle.dumps(content))
    with pytest.raises(ValueError, match="entry 7 is not a gzipped pickle of plain values.*could run code"):
        read_record(payload, "entry 7")
    assert not Path("it_ran").exists()
    with pytest.raises(ValueError, match="not a gzipped pickle"):
        read_record(b"plain bytes", "entry 8")


def test_a_gzip_bomb_among_the_records_is_refused(monkeypatch):
    payload = gzip.compress(pickle.dumps({"pm3": [bytes(1 << 20)]}))
    assert read_record(payload, "entry 7")["pm3"] == [bytes(1 << 20)]
    monkeypatch.setattr(pubchemqcr, "MAX_RECORD", 1 << 16)
    with pytest.raises(ValueError, match="entry 7 unpacks to more than 65,536 bytes"):
        read_record(payload, "entry 7")


@pytest.fixture
def database(tmp_path):
    lmdb = pytest.importorskip("lmdb", reason="of the extra 'molecules'")
    with lmdb.open(str(tmp_path / "Data06.lmdb"), subdir=False, map_size=2**22) as environment:
        with environment.begin(write=True) as transaction:
            for i in range(10):
                steps = [step(-76.4 - 0.01 * i - 0.001 * j, 0.001 * j) for j in range(1 + i % 3)]
                record = {"DFT_1st": steps if i != 4 else None, "hf": None}
                transaction.put(f"{i:09d}".encode(), gzip.compress(pickle.dumps(record)))
    return tmp_path


def test_pubchemqcr_is_split_by_molecule_as_published(database):
    data = PubChemQCR(str(database), batch_size=4)
    data.prepare_data()
    data.setup("fit")
    order = [i for i in range(10) if i != 4]
    places = list(range(9))
    random.Random(42).shuffle(places)
    molecules = {"train": places[:5], "val": places[5:6], "test": places[6:]}
    for part, expected in molecules.items():
        found = [round(-float(s.energy) / HARTREE, 4) for s in data.datasets[part].structures]
        assert found == [
            round(76.4 + 0.01 * order[p] + 0.001 * j, 4) for p in expected for j in range(1 + order[p] % 3)
        ]
    batch = next(iter(data.train_dataloader()))
    assert batch["positions"].shape == (12, 3) and batch["energy"].dtype == torch.double
    assert len(data.train_sample(2)) == 2
    workers = PubChemQCR(str(database), batch_size=4, num_workers=2)
    workers.setup("fit")
    parallel = [energy for batch in workers.test_dataloader() for energy in batch["energy"].tolist()]
    assert parallel == [float(s.energy) for s in data.datasets["test"].structures]
    again = PubChemQCR(str(database))
    again.setup("fit")  # from the counts in the cache
    assert len(again.datasets["train"]) == len(data.datasets["train"])


def test_pubchemqcr_says_what_is_missing(tmp_path):
    pytest.importorskip("lmdb", reason="of the extra 'molecules'")
    with pytest.raises(FileNotFoundError, match="does not have Data06.lmdb; get PubChemQCR"):
        PubChemQCR(str(tmp_path)).prepare_data()
    with pytest.raises(ValueError, match="stage='1st' must be one of pm3, hf, DFT_1st, DFT_2nd"):
        PubChemQCR(str(tmp_path), stage="1st")
    (tmp_path / "Data06.lmdb").write_text("text")
    with pytest.raises(ValueError, match="Data06.lmdb is not an LMDB file"):
        PubChemQCR(str(tmp_path)).prepare_data()


@pytest.mark.parametrize("stage", ["pm3", {"energy": 1.0}, [1.0, 2.0]])
def test_a_stage_that_is_no_list_of_steps_is_named(stage):
    with pytest.raises(ValueError, match=r"a.lmdb, entry 3, stage hf: expected a list of dictionaries"):
        structures_of({"hf": stage}, "hf", "a.lmdb, entry 3")
